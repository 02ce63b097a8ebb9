"""Runs in a real SQLite store."""

import pickle
from pathlib import Path

import pytest
from mlflow import MlflowClient

from laser.config.schema import Experiment, TrackingConfig
from laser.errors import UserError
from laser.tracking.runs import Run, Tracking, open_tracking
from laser.tracking.sweeps import SweepTracker


class Results:
    history = [{"epoch": 0.0, "val/ndcg@10": 0.1}, {"epoch": 1.0, "val/ndcg@10": 0.2, "loss": 3.0}]
    figures = {"best/ndcg@10": 0.2}

    def __init__(self, directory: Path) -> None:
        self.artifacts = {"checkpoint": directory}


@pytest.fixture
def tracking(tmp_path, monkeypatch) -> Tracking:
    monkeypatch.chdir(tmp_path)
    return open_tracking(TrackingConfig())


def test_the_default_store_is_a_file_in_the_working_directory(tracking, tmp_path):
    assert tracking.uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert not (tmp_path / "mlflow.db").exists()  # made with the first run


def test_the_setting_goes_before_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'a.db'}")
    assert open_tracking(TrackingConfig()).uri.endswith("a.db")
    assert open_tracking(TrackingConfig(uri=f"sqlite:///{tmp_path / 'b.db'}")).uri.endswith("b.db")


def test_a_run_goes_on_without_doubling_what_it_has(tracking, tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "weights").write_text("w")
    config, tags = Experiment(), {"dataset": "d"}
    with pytest.raises(KeyboardInterrupt), tracking.run(config, "train", "one", tags) as run:
        run.report({"val/ndcg@10": 0.1}, 0)
        raise KeyboardInterrupt
    client = MlflowClient(tracking.uri)
    assert client.get_run(run.run_id).info.status == "KILLED"
    with tracking.run(config, "train", "one", tags, run_id=run.run_id) as again:
        again.record(Results(tmp_path / "files"))
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
    assert names == {"checkpoint", "config.yaml", "environment.json"}


def test_a_failure_is_readable_in_the_run(tracking):
    with pytest.raises(ValueError), tracking.run(Experiment(), "train", "one", {}) as run:  # noqa: PT011
        raise ValueError("no such luck")
    recorded = MlflowClient(tracking.uri).get_run(run.run_id)
    assert recorded.info.status == "FAILED"
    assert recorded.data.tags["error"] == "ValueError: no such luck"


def test_a_run_reports_from_other_processes(tracking):
    with tracking.run(Experiment(), "train", "one", {}) as run:
        copy: Run = pickle.loads(pickle.dumps(run))
        copy.report({"loss": 1.0}, 1)
    assert MlflowClient(tracking.uri).get_run(run.run_id).data.metrics == {"loss": 1.0}


def test_trials_are_children_of_their_sweep(tracking, tmp_path):
    with tracking.run(Experiment(), "tune", "sweep", {}) as parent:
        tracker = SweepTracker(tracking, parent.run_id)
        trial = tracker.start(Experiment(), "K=8 L=32", {"K": 8}, None)
        (tmp_path / "files").mkdir()
        tracker.finish(trial.run_id, "stopped", Results(tmp_path / "files"), None)
    recorded = MlflowClient(tracking.uri).get_run(trial.run_id)
    assert recorded.data.tags["mlflow.parentRunId"] == parent.run_id
    assert (recorded.info.run_name, recorded.info.status, recorded.data.tags["state"]) == (
        "K=8 L=32",
        "FINISHED",
        "stopped",
    )


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("gopher://x", "wanted sqlite:///<file>"),
        ("sqlite:////nowhere/at/all/mlflow.db", "no folder /nowhere/at/all"),
        ("http://127.0.0.1:9", "does not answer"),
    ],
)
def test_an_unusable_store_is_refused(uri, message):
    with pytest.raises(UserError, match=message):
        open_tracking(TrackingConfig(uri=uri))


def test_a_store_to_read_from_must_be_there_and_is_not_made(tmp_path):
    path = tmp_path / "mlflow.db"
    with pytest.raises(UserError, match="no such file"):
        open_tracking(TrackingConfig(uri=f"sqlite:///{path}"), must_exist=True)
    assert not path.exists()


def test_an_unknown_run_is_the_users_mistake(tracking):
    with tracking.run(Experiment(), "train", "one", {}):
        pass
    with pytest.raises(UserError, match="run_id: 'nowhere' is not in"):
        tracking.find("nowhere")


def test_a_password_in_an_address_is_recorded_nowhere(tracking, tmp_path, monkeypatch):
    uri = "postgresql+psycopg2://me:hunter2@db.example.com/mlflow"
    monkeypatch.setattr("sys.argv", ["jobs/train.py", f"tracking.uri={uri}"])
    config = Experiment(tracking=TrackingConfig(uri=uri))
    with pytest.raises(OSError), tracking.run(config, "train", "one", {}) as run:  # noqa: PT011
        raise OSError(f"could not connect to {uri}")
    recorded = MlflowClient(tracking.uri).get_run(run.run_id).data
    assert recorded.params["tracking.uri"] == uri.replace("hunter2", "***")
    assert recorded.tags["error"].endswith(uri.replace("hunter2", "***"))
    holding = [path for path in tmp_path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert holding == []
