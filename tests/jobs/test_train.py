"""Tests one training in two ways: in plain torch, and interrupted and resumed on two ZeRO-3 workers (compiled)."""

import json
import re
import signal
import socket
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from laser.api import train
from laser.cluster.processes import Note
from laser.config.compose import load_config
from laser.config.schema import Experiment
from laser.errors import UserError
from laser.evaluation.user_ranks import read_ranks
from laser.training.run.checkpoint import latest_checkpoint

pytestmark = pytest.mark.ray

LOSS_TOLERANCE = 1e-5  # measured over all pairs of such runs: 6e-7 at losses of 6.1
WEIGHT_TOLERANCE = 5e-5  # measured: 3e-6, after twelve steps of Adam


EPOCHS = ("training.stage0_epochs=2", "training.stage1_epochs=1", "training.negatives=in_batch")
"""In stage 0 a user's candidates lie in other micro-batches too, and with the other worker."""


SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "GITHUB_TOKEN",
    "HF_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PGPASSWORD",
    "WANDB_API_KEY",
    "SOMEBODYS_SECRET",
)
SECRET = {name: f"5ec2e7{number:02d}" * 4 for number, name in enumerate((*SECRETS, "RAY_AUTH_TOKEN"))}
"""What the environment of the resumed run holds. RAY_AUTH_TOKEN is that of a session's own Ray."""


@pytest.fixture(scope="module")
def spoken() -> list[str]:
    """What the sessions of the resumed run have written to standard output and standard error."""
    return []


@pytest.fixture(scope="module")
def both(workplace, joined, spoken):
    """The summaries of the plain and of the resumed training, which run at the same time."""
    plain = workplace.start("train.py", *settings(workplace, "plain"), "training.num_workers=0")
    try:
        resumed = train_in_two_sessions(workplace, joined, spoken)
        return workplace.finish(plain), resumed
    finally:
        plain.kill()  # where the other one has failed


@pytest.fixture(scope="module")
def plain(both):
    return both[0]


@pytest.fixture(scope="module")
def resumed(both):
    return both[1]


def settings(workplace, name: str) -> list[str]:
    return workplace.settings("quickstart.yaml", *EPOCHS, f"name={name}")


def train_in_two_sessions(workplace, joined, spoken: list[str]) -> dict[str, Any]:
    """Start in one process, interrupt during stage 0, and resume on two workers under ZeRO-3, which compile the LLM.

    Both sessions have secrets in their environment.
    """
    secrets = {name: SECRET[name] for name in SECRETS}
    process = workplace.start(
        "train.py", *settings(workplace, "resumed"), "training.num_workers=0", environment=secrets
    )
    place = workplace.directory / "runs" / "resumed" / "checkpoints" / "stage0-epoch0001"
    while not place.is_dir():
        assert process.poll() is None, process.communicate()[1][-8000:]
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors[-8000:]
    assert errors.splitlines()[-1] == "interrupted; resume with resume=true"
    interrupted = run_id(workplace, "resumed")
    assert client(workplace).get_run(interrupted).info.status == "KILLED"
    process = joined.start(
        "train.py", *settings(workplace, "resumed"), "llm.compile=true", "resume=true", environment=secrets
    )
    rest = process.communicate(timeout=900)
    spoken += [output, errors, *rest]
    assert process.returncode == 0, rest[1][-8000:]
    return json.loads(rest[0].splitlines()[-1])


def test_interrupted_and_resumed_on_two_zero3_workers_ends_as_one_plain_process(workplace, plain, resumed):
    compare(workplace, "plain", "resumed")
    assert resumed["val"] == pytest.approx(plain["val"], abs=0.02)  # one of 60 users' ranks may turn on rounding
    assert resumed["epochs"] == plain["epochs"] == 4
    assert resumed["trainable_parameters"] == plain["trainable_parameters"]
    assert resumed["data"]["rejected"]["interactions_below_min_rating"] > 0
    assert "interactions_below_min_rating" in client(workplace).get_run(resumed["run_id"]).data.tags["data"]


def compare(workplace, one: str, other: str) -> None:
    """Check that losses of each epoch, final weights and final item embeddings are the same."""
    mine, theirs = (latest_checkpoint(workplace.directory / "runs" / name / "checkpoints") for name in (one, other))
    assert mine.state.epoch == theirs.state.epoch == 4
    for row, row_of_other in zip(mine.state.history[1:], theirs.state.history[1:], strict=True):
        for name in ("loss", "loss/contrastive", "loss/load_balance"):
            assert row[name] == pytest.approx(row_of_other[name], abs=LOSS_TOLERANCE), name
        assert row["tokens"] == row_of_other["tokens"]
    ours, others = mine.trainable(), theirs.trainable()
    assert ours.keys() == others.keys()
    for name, weight in ours.items():
        torch.testing.assert_close(
            weight, others[name], rtol=0, atol=WEIGHT_TOLERANCE, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_a_run_holds_settings_metrics_of_each_epoch_environment_and_artifacts(workplace, resumed, tmp_path):
    run = client(workplace).get_run(resumed["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["mformer.num_experts"] == "2"
    assert {"dataset_fingerprint", "llm", "K", "L", "kind"} <= run.data.tags.keys()
    for name, steps in (("val/ndcg_at_10", [0, 1, 2, 3, 4]), ("loss", [1, 2, 3, 4]), ("expert_load/1", [1, 2, 3, 4])):
        history = client(workplace).get_metric_history(resumed["run_id"], name)
        assert sorted(point.step for point in history) == steps, name  # none lost and none twice
    nodes = {name.split("/")[1] for name in run.data.metrics if name.startswith("system/")}
    assert nodes == {socket.gethostname()}  # handed to the driver by the workers
    assert run.data.metrics["test/ndcg_at_10"] == pytest.approx(resumed["test"]["ndcg@10"])
    folder = Path(client(workplace).download_artifacts(resumed["run_id"], "", str(tmp_path)))
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["packages"]["torch"] == version("torch")
    assert load_file(folder / "checkpoint" / "item_embeddings.safetensors")["item_embeddings"].shape[1] == 576
    assert {"config.yaml", "recommender"} <= {path.name for path in folder.iterdir()}
    assert read_ranks(folder / "ranks" / "test.parquet").metrics() == pytest.approx(resumed["test"], rel=1e-12)


def test_evaluate_reproduces_the_test_metrics_from_the_artifacts(workplace, resumed):
    cache = f"cache_dir={workplace.repo / '.cache' / 'laser'}"
    evaluated = workplace.run("evaluate.py", f"run_id={resumed['run_id']}", cache)
    assert evaluated["metrics"] == pytest.approx(resumed["test"], abs=1e-3)
    assert evaluated["recorded"] == pytest.approx(resumed["test"])


def test_other_settings_do_not_resume(workplace, plain, monkeypatch):
    assert plain
    monkeypatch.chdir(workplace.directory)
    again = (*settings(workplace, "plain"), "training.num_workers=0", "resume=true")
    with pytest.raises(UserError, match=r"^training\.learning_rate: 0\.5 differs from 0\.0001"):
        train(load_config(Experiment, [*again, "training.learning_rate=0.5"], None))


def test_no_process_waits_for_this_machine_to_be_taken_away(cluster, resumed):
    assert resumed
    noted = Note.read(Path(cluster.environment["RAY_AUTH_TOKEN_PATH"]).parent / "cluster.json")
    assert noted is not None
    logs = "".join(path.read_text(errors="replace") for path in Path(noted.session).rglob("worker-*.out"))
    actors = set(re.findall(r"actor_name:(\w+)", logs))
    assert "RayTrainWorker" in actors and "PreemptionWatcher" not in actors


def test_secrets_of_the_environment_stand_in_no_record_and_no_log(workplace, cluster, resumed, spoken):
    assert resumed
    folder = Path(cluster.environment["RAY_AUTH_TOKEN_PATH"]).parent
    noted = Note.read(folder / "cluster.json")
    assert noted is not None
    look_for_secrets([folder, Path(noted.session), workplace.directory], spoken)


@pytest.mark.slow
def test_a_job_with_a_ray_of_its_own_leaves_no_secret(workplace):
    """On one worker under ZeRO-2. The sockets of Ray need a short path."""
    with tempfile.TemporaryDirectory(prefix="laser-", dir="/tmp", ignore_cleanup_errors=True) as session:
        process = workplace.start(
            "train.py",
            *settings(workplace, "own-ray"),
            "training.num_workers=1",
            "training.zero_stage=2",
            environment={**SECRET, "RAY_AUTH_MODE": "token", "RAY_TMPDIR": session},
        )
        output, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors[-8000:]
        look_for_secrets([Path(session), workplace.directory], [output, errors])


def look_for_secrets(folders: list[Path], spoken: list[str]) -> None:
    """Check that no file of a Ray session and of the workplace holds a secret, nor what was written to the terminal."""
    *sessions, workplace = folders
    for folder, name in ((sessions[-1], "raylet"), (workplace, "mlflow.db")):
        assert list(folder.rglob(f"{name}*")), f"nothing to look through in {folder}"
    texts = {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}
    texts["output"] = "".join(spoken).encode()
    found = [(name, where) for where, text in texts.items() for name, value in SECRET.items() if value.encode() in text]
    assert found == []


def test_nothing_is_said_that_nobody_can_act_on(resumed, spoken):
    """Three processes speak: the job, Ray Train's controller and a worker."""
    assert resumed and any("stage 1 epoch 1" in text for text in spoken)
    noise = re.compile("Setting accelerator|PreemptionWatcher|Configuration for exp|GGUF tensors|deprecat|Warning:")
    assert [line for text in spoken for line in text.splitlines() if noise.search(line)] == []


def client(workplace) -> MlflowClient:
    return MlflowClient(f"sqlite:///{workplace.directory / 'mlflow.db'}")


def run_id(workplace, name: str) -> str:
    return (workplace.directory / "runs" / name / "run_id").read_text().strip()
