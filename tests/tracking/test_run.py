"""One run: reported to from several processes, filled and read."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from mlflow import MlflowClient

from laser.config.schema import Experiment
from laser.tracking.run import Run


def test_a_resumed_run_doubles_nothing(tracking, results, tmp_path):
    config, tags = Experiment(), {"dataset": "d"}
    with pytest.raises(KeyboardInterrupt), tracking.run(config, "train", "one", tags) as run:
        run.report({"val/ndcg@10": 0.1}, 0)
        raise KeyboardInterrupt
    client = MlflowClient(tracking.uri)
    assert client.get_run(run.run_id).info.status == "KILLED"
    with tracking.run(config, "train", "one", tags, run_id=run.run_id) as again:
        again.record(results)
    assert again.run_id == run.run_id
    recorded = client.get_run(run.run_id)
    assert recorded.info.status == "FINISHED"
    assert recorded.data.params["mformer.num_experts"] == "8"
    assert recorded.data.tags["kind"] == "train"
    points = client.get_metric_history(run.run_id, "val/ndcg_at_10")
    assert [(point.step, point.value) for point in points] == [(0, 0.1), (1, 0.2)]
    assert again.figures("best/") == {"ndcg@10": 0.2}
    assert (again.fetch("checkpoint", tmp_path / "files") / "weights").read_text() == "w"
    names = {item.path for item in client.list_artifacts(run.run_id)}
    assert names == {"checkpoint", "config.yaml", "environment.json", "figures"}


def test_a_run_says_where_it_comes_from_and_what_it_reads(tracking, results):
    tags = {"dataset": "d", "dataset_fingerprint": "f" * 64, "data": "d: 3 users"}
    known = None
    for _ in range(2):  # a resumed run links its data once
        with tracking.run(Experiment(), "train", "one", tags, run_id=known) as run:
            known = run.run_id
            run.record(results)
    recorded = MlflowClient(tracking.uri).get_run(run.run_id)
    assert len(recorded.inputs.dataset_inputs) == 1
    dataset = recorded.inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.digest) == ("d", "f" * 36)
    told = recorded.data.tags
    assert told["mlflow.source.name"] and told["mlflow.source.type"] == "LOCAL"
    note = told["mlflow.note.content"]
    assert note.startswith("Laser with K = 8 experts and L = 32 virtual tokens, which reads bert4rec, before the LLM")
    assert note.count("Reached") == 1 and note.endswith("NDCG@10 0.2000 on validation users.")


def test_a_trial_says_the_command_of_its_sweep(tracking, monkeypatch):
    monkeypatch.setattr("sys.argv", ["jobs/tune.py", "data=mine"])
    parent = tracking.start(Experiment(), "tune", "sweep", {})
    monkeypatch.setattr("sys.argv", ["default_worker.py", "--node-ip-address=127.0.0.1"])
    trial = tracking.start(Experiment(), "trial", "K=2", {}, parent=parent.run_id)
    source = MlflowClient(tracking.uri).get_run(trial.run_id).data.tags["mlflow.source.name"]
    assert source.endswith(" jobs/tune.py data=mine")


def test_runs_that_start_at_once_link_the_same_new_data(tracking):
    starts = 4
    runs = [tracking.start(Experiment(), "train", str(number), {}) for number in range(starts)]
    together = threading.Barrier(starts)

    def link(run: Run, digest: str) -> None:
        together.wait()
        run.log_dataset("d", digest, "there")

    digests = [f"{number:036}" for number in range(5)]
    with ThreadPoolExecutor(starts) as threads:
        for digest in digests:
            list(threads.map(link, runs, [digest] * starts))
    client = MlflowClient(tracking.uri)
    for run in runs:
        inputs = client.get_run(run.run_id).inputs.dataset_inputs
        assert sorted(known.dataset.digest for known in inputs) == digests


def test_the_metric_that_selects_is_recorded_first(tracking):
    with tracking.run(Experiment(), "train", "one", {}) as run:
        run.report({"loss": 1.0, "val/recall@10": 0.2, "val/ndcg@10": 0.1}, 1)
    assert next(iter(MlflowClient(tracking.uri).get_run(run.run_id).data.metrics)) == "val/ndcg_at_10"


def test_a_run_reports_from_other_processes(tracking):
    with tracking.run(Experiment(), "train", "one", {}) as run:
        copy: Run = pickle.loads(pickle.dumps(run))
        copy.report({"loss": 1.0}, 1)
    assert MlflowClient(tracking.uri).get_run(run.run_id).data.metrics == {"loss": 1.0}
