"""The trials of a sweep are recorded as child runs."""

from mlflow import MlflowClient

from laser.config.schema import Experiment, TuneExperiment
from laser.tracking.sweeps import SweepTracker, read_trials


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


def test_a_space_that_is_longer_than_a_parameter_is_read_whole(tracking, results):
    texts = [f"{number} " + "Sum up. " * 400 for number in range(3)]
    config = TuneExperiment(space={"prompt.instruction": {"choice": texts}})
    with tracking.run(config, "tune", "sweep", {}) as parent:
        tracker = SweepTracker(tracking, parent.run_id)
        trial = Experiment.model_validate({"prompt": {"instruction": "Hi"}})
        tracker.finish(tracker.start(trial, "one", {}, None).run_id, "finished", results, None)
        [facts] = read_trials(tracking, parent)
    assert facts.overrides == {"prompt.instruction": "Hi"}
