"""The store of runs is found and checked; runs are opened, closed and found in it."""

import pytest
from mlflow import MlflowClient

from laser.config.schema import Experiment, TrackingConfig
from laser.errors import UserError
from laser.tracking.runs import open_tracking, runs_with_ranks


def test_the_default_store_is_a_file_in_the_working_directory(tracking, tmp_path):
    assert tracking.uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert not (tmp_path / "mlflow.db").exists()  # made with the first run


def test_the_setting_goes_before_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'a.db'}")
    assert open_tracking(TrackingConfig()).uri.endswith("a.db")
    assert open_tracking(TrackingConfig(uri=f"sqlite:///{tmp_path / 'b.db'}")).uri.endswith("b.db")


def test_a_failure_is_readable_in_the_run(tracking):
    with pytest.raises(ValueError), tracking.run(Experiment(), "train", "one", {}) as run:  # noqa: PT011
        raise ValueError("no such luck")
    recorded = MlflowClient(tracking.uri).get_run(run.run_id)
    assert recorded.info.status == "FAILED"
    assert recorded.data.tags["error"] == "ValueError: no such luck"


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


def test_runs_are_found_by_the_name_of_their_data_whatever_it_is(tracking, results):
    name = 'Bob\'s "best" 100%'
    for dataset in (name, "others"):
        with tracking.run(Experiment(), "train", "one", {"dataset": dataset}) as run:
            run.log_directory(results.artifacts["checkpoint"], "ranks")
    [found] = runs_with_ranks(tracking, name)
    assert found.tags()["dataset"] == name
    assert len(runs_with_ranks(tracking, None)) == 2
