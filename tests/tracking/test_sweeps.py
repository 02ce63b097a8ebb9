"""The trials of a sweep are recorded as child runs."""

from mlflow import MlflowClient

from laser.config.schema import Experiment
from laser.tracking.sweeps import SweepTracker


def test_trials_are_children_of_their_sweep(tracking, results):
    with tracking.run(Experiment(), "tune", "sweep", {}) as parent:
        tracker = SweepTracker(tracking, parent.run_id)
        trial = tracker.start(Experiment(), "K=8 L=32", {"K": 8}, None)
        tracker.finish(trial.run_id, "stopped", results, None)
    recorded = MlflowClient(tracking.uri).get_run(trial.run_id)
    assert recorded.data.tags["mlflow.parentRunId"] == parent.run_id
    assert (recorded.info.run_name, recorded.info.status, recorded.data.tags["state"]) == (
        "K=8 L=32",
        "FINISHED",
        "stopped",
    )
