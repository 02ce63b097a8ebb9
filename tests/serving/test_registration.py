"""The packaged model in a real store: logged, registered, champion only if better on the same validation data."""

import json
import os
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient

from laser.cluster.ports import free_ports
from laser.config.compose import with_overrides
from laser.config.schema import TrackingConfig
from laser.errors import UserError
from laser.serving.answerer import Answerer
from laser.serving.opening import open_named
from laser.serving.registration import SCORE, VALIDATION, register_winner, succeeds
from laser.tracking.models import Version, give_alias, holder
from laser.tracking.run import Run

TAGS = {VALIDATION: "validation-1", SCORE: "0.100000", "dataset": "films"}
BEFORE = Version("laser", "1", "a", TAGS)


def version(**tags: str) -> Version:
    return replace(BEFORE, number="2", run_id="b", tags={**TAGS, **tags})


def test_only_a_better_score_on_the_same_validation_data_takes_the_alias():
    assert succeeds(BEFORE, None) == (True, "the first of its name")
    wins, why = succeeds(version(**{SCORE: "0.100001"}), BEFORE)
    assert wins and "0.1000 against 0.1000 of version 1 on the same data" in why
    wins, why = succeeds(version(**{SCORE: "0.100000"}), BEFORE)
    assert not wins and "champion is version 1" in why and "no better" in why
    wins, why = succeeds(version(**{SCORE: "0.9", VALIDATION: "validation-2", "dataset": "books"}), BEFORE)
    assert not wins and "validated on other data (films, validation-1; here books, validation-2)" in why
    assert succeeds(BEFORE, BEFORE) == (False, "champion already")


@pytest.fixture(scope="module")
def registered(trained, store, cache):
    """The models of two runs in the registry, in this order."""
    return [register_winner(trained(variant).run, "laser", cache) for variant in ("before", "no recommender")]


def test_winners_are_registered_with_their_lineage(registered, trained, store, cache):
    client = MlflowClient(store.uri)
    first, second = (client.get_model_version("laser", result["version"]) for result in registered)
    model = trained("before")
    assert first.tags["dataset_fingerprint"] == model.inputs.dataset.fingerprint
    assert first.tags["recommender"] == "sasrec" and second.tags["recommender"] == "none"
    assert first.tags["llm_content"] == model.inputs.artifacts.llm_content
    assert first.tags["commit"] == model.run.tags()["commit"]
    assert first.tags[VALIDATION] == second.tags[VALIDATION]
    scores = [float(found.tags[SCORE]) for found in (first, second)]
    assert registered[0]["champion"] and registered[0]["reason"] == "the first of its name"
    assert registered[1]["champion"] == (scores[1] > scores[0])
    best_run = (first, second)[int(scores[1] > scores[0])].run_id
    assert client.get_model_version_by_alias("laser", "champion").run_id == best_run
    again = register_winner(model.run, "laser", cache)  # as a resumed sweep does
    assert again["version"] == registered[0]["version"]
    assert len(client.search_model_versions("name = 'laser'")) == 2


def test_sweeps_that_end_at_once_agree_on_the_champion(registered, trained, store, cache):
    client, together = MlflowClient(store.uri), threading.Barrier(2)
    runs = [trained(variant).run for variant in ("before", "no recommender")]

    def end(run: Run, name: str) -> dict[str, Any]:
        together.wait()
        return register_winner(run, name, cache)

    best = max(runs, key=lambda run: run.figures("best/")["ndcg@10"])
    with ThreadPoolExecutor(2) as threads:
        for name in ("a", "b", "c"):
            list(threads.map(end, runs, [name] * 2))
            assert client.get_model_version_by_alias(name, "champion").run_id == best.run_id


def test_stores_that_get_the_same_new_alias_at_once_take_it(registered, store):
    version = MlflowClient(store.uri).get_model_version("laser", "1")
    ours, together = Version("laser", "1", version.run_id, {}), threading.Barrier(4)

    def give(alias: str) -> None:
        together.wait()
        give_alias(store.uri, ours, alias)

    with ThreadPoolExecutor(4) as threads:
        for number in range(5):
            list(threads.map(give, [f"alias-{number}"] * 4))
            assert holder(store.uri, "laser", f"alias-{number}") is not None


def test_it_is_a_logged_model_of_its_run_with_the_data(registered, trained, store):
    client, model = MlflowClient(store.uri), trained("before")
    run = client.get_run(model.run.run_id)
    [data] = run.inputs.dataset_inputs
    assert data.dataset.name == model.inputs.dataset.name
    assert model.inputs.dataset.fingerprint.startswith(data.dataset.digest)
    [output] = run.outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert logged.source_run_id == model.run.run_id and str(logged.status) == "READY"
    best = {metric.key: metric.value for metric in logged.metrics}["best/ndcg_at_10"]
    assert best == run.data.metrics["best/ndcg_at_10"]
    files = [path for path in Path(logged.artifact_location.removeprefix("file://")).rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".pkl", ".pyc", ".pt")]
    pinned = next(path for path in files if path.name == "requirements.txt").read_text()
    assert "torch==" in pinned and all("==" in line for line in pinned.split())


def test_the_champion_is_opened_by_its_name(registered, trained, store, cache):
    tracking = TrackingConfig(uri=store.uri)
    package = open_named("models:/laser/1", None, tracking, cache)
    assert package.identity.run_id == trained("before").run.run_id
    champion = open_named("models:/laser@champion", None, tracking, cache)
    assert champion.identity.run_id in {trained(name).run.run_id for name in ("before", "no recommender")}
    with pytest.raises(UserError, match="model: models:/laser@nobody: "):
        open_named("models:/laser@nobody", None, tracking, cache)
    with pytest.raises(UserError, match="model: models:/unknown/1: "):
        open_named("models:/unknown/1", None, tracking, cache)


def test_mlflow_loads_it_from_code_and_it_answers_as_ours(registered, trained, store, cache, monkeypatch, recwarn):
    monkeypatch.setenv("LASER_CACHE_DIR", str(cache))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    mlflow.set_registry_uri(store.uri)
    loaded = mlflow.pyfunc.load_model("models:/laser/1")
    items = trained("before").inputs.dataset.items.column("raw_id").to_pylist()
    histories = [items[:3], ["?"]]
    table = loaded.predict(pd.DataFrame({"history": histories}), params={"k": 4})
    ours = Answerer.open(trained("before").package, cache).recommend(histories, k=4)
    assert table["items"].tolist() == [answer.items for answer in ours]
    assert table["titles"].tolist() == [answer.titles for answer in ours]
    assert table["unknown"].tolist() == [[], ["?"]]
    assert not [warning for warning in recwarn if "type hint" in str(warning.message)]


@pytest.mark.slow
def test_mlflow_serves_it_over_http(registered, trained, store, cache, tmp_path):
    [port] = free_ports(1)
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/laser/1", "--env-manager", "local",
        "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    environment = {**os.environ, "LASER_CACHE_DIR": str(cache), "MLFLOW_TRACKING_URI": store.uri}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"  # for uvicorn
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, start_new_session=True, stdout=log, stderr=subprocess.STDOUT
    )
    try:
        items = trained("before").inputs.dataset.items.column("raw_id").to_pylist()
        body = {"dataframe_records": [{"history": items[:3]}], "params": {"k": 2}}
        answer = ask(f"http://127.0.0.1:{port}", json.dumps(body).encode(), process, tmp_path / "log")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 15)
        process.wait(60)
    [ours] = Answerer.open(trained("before").package, cache).recommend([items[:3]], k=2)
    assert answer["predictions"][0]["items"] == ours.items


def ask(address: str, body: bytes, process: "subprocess.Popen[bytes]", log: Path, seconds: float = 180.0) -> dict:
    import time

    deadline = time.monotonic() + seconds
    while True:
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(f"{address}/ping", timeout=5).read()
            break
        except OSError:
            time.sleep(0.5)
    request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    return json.loads(urllib.request.urlopen(request, timeout=60).read())


def test_other_validation_users_are_other_validation_data(trained, cache):
    from laser.serving.registration import validation_key

    model = trained("before")
    fewer = with_overrides(model.config, {"training.validation_users": 20})
    assert validation_key(model.config, model.inputs.dataset) != validation_key(fewer, model.inputs.dataset)
    steps = with_overrides(model.config, {"mformer.num_virtual_tokens": 2})
    assert validation_key(model.config, model.inputs.dataset) == validation_key(steps, model.inputs.dataset)
