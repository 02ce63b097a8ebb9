"""Tests a sweep that is killed while it runs, resumed past a trial that fails, and found in MLflow."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from laser.config.compose import load_config
from laser.config.schema import TuneExperiment
from laser.errors import UserError
from laser.tuning.search import plan_search

pytestmark = pytest.mark.ray

FAST = ("training.num_workers=1", "training.zero_stage=0", "training.stage1_epochs=1", "training.stage2_epochs=1")
TOO_LARGE = 1e30
"""A learning rate beyond float32 gives NaN after the first step."""
RATES = ("training.max_grad_norm=0.0", "training.warmup_steps=0")


def space(*rates: float) -> tuple[str, ...]:
    of_rates = f"space.training.learning_rate={{choice: {list(rates)}}}"
    return ("space.mformer.num_virtual_tokens=null", "space.mformer.num_experts=null", of_rates)


def test_a_killed_sweep_goes_on_past_a_failed_trial_and_finished_trials_stay_untouched(joined):
    settings = joined.settings("tune/quickstart.yaml", *space(1e-4, TOO_LARGE, 1e-3), *FAST, *RATES)
    process = joined.start("tune.py", *settings)
    records = joined.directory / "runs" / "sweeps" / "quickstart" / "trials"
    while not list(records.glob("*/record.json")):
        assert process.poll() is None, process.communicate()[1][-8000:]
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)  # as `ray job stop` does; test_train interrupts by Ctrl-C's signal
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors[-8000:]
    [finished] = records.glob("*/record.json")
    before = (finished.stat().st_mtime_ns, finished.read_text())

    # How it runs may change. Without workers of Ray Train, the other two trials need fewer processes.
    summary = joined.run("tune.py", *settings, "resume=true", "training.num_workers=0")
    assert summary["trials"] == {"finished": 2, "stopped": 0, "failed": 1}
    assert summary["data"]["rejected"]["interactions_outside_k_core"] > 0
    assert (finished.stat().st_mtime_ns, finished.read_text()) == before
    check_records(records)
    check_runs(joined, summary)


def check_records(records: Path) -> None:
    """Check the times of the trials that finished, and the traceback that the failed one has left."""
    [failed] = records.glob("*/error.txt")
    text = failed.read_text()
    assert "in train_epoch" in text and "\x1b" not in text
    assert text.splitlines()[-1].startswith("FloatingPointError: stage 1 epoch 1, step 2 (users ")
    for path in records.glob("*/record.json"):
        record = json.loads(path.read_text())
        if path.parent == failed.parent:
            assert record["error"] == text.splitlines()[-1]
        else:
            assert record["started"] < record["first_epoch"] < record["ended"]
            assert 0 < record["seconds"] < record["ended"] - record["started"]


def check_runs(joined, summary: dict[str, Any]) -> None:
    client = MlflowClient(f"sqlite:///{joined.directory / 'mlflow.db'}")
    parent = client.get_run(summary["parent_run_id"])
    assert parent.info.status == "FINISHED"
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{summary['parent_run_id']}'"
    )
    begun = [run for run in children if run.data.params]  # not one that was killed before its settings were recorded
    by_rate = {float(run.data.params["training.learning_rate"]): run for run in begun}
    assert by_rate.keys() == {1e-4, TOO_LARGE, 1e-3}
    assert by_rate.pop(TOO_LARGE).info.status == "FAILED"
    for run in by_rate.values():
        assert run.info.status == "FINISHED"
        assert run.data.tags["K"] == run.data.params["mformer.num_experts"]
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "val/ndcg_at_10")]
        assert sorted(steps) == [0, 1, 2]
    assert summary["best"]["run_id"] in {run.info.run_id for run in by_rate.values()}
    board = json.loads(Path(client.download_artifacts(summary["parent_run_id"], "leaderboard.json")).read_text())
    scores = [row["val"]["ndcg@10"] for row in board if row["state"] == "finished"]
    assert len(scores) == 2 and scores == sorted(scores, reverse=True)
    assert "learning_rate=0.001" in parent.data.tags["mlflow.note.content"]


@pytest.mark.slow
def test_a_sweep_of_which_every_trial_failed_says_so(joined):
    settings = joined.settings("tune/quickstart.yaml", *space(TOO_LARGE), *FAST, *RATES, "name=hopeless")
    process = joined.start("tune.py", *settings, "training.num_workers=0")
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 1, errors[-8000:]
    assert errors.splitlines()[-1].startswith("error: 1 of 1 trials failed: FloatingPointError: ")
    summary = json.loads(output.splitlines()[-1])
    assert summary["trials"] == {"finished": 0, "stopped": 0, "failed": 1}
    parent = MlflowClient(f"sqlite:///{joined.directory / 'mlflow.db'}").get_run(summary["parent_run_id"])
    assert parent.info.status == "FAILED"
    assert parent.data.tags["error"].startswith("AllFailedError: 1 of 1 trials failed: ")
    assert "learning_rate=1e+30" in parent.data.tags["mlflow.note.content"]


COUNT = """
from ray.util.state import list_actors
print(len(list_actors(filters=[("class_name", "=", "ImplicitFunc")], limit=1000)))
"""


def trial_processes(joined) -> int:
    """Return how many processes of trials the cluster has had."""
    environment = {**os.environ, **joined.environment}
    command = [sys.executable, "-c", COUNT]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
def test_trials_that_nobody_stops_share_a_process(joined):
    before = trial_processes(joined)
    settings = joined.settings("tune/quickstart.yaml", *space(1e-4, 1e-3), *FAST, "name=shared")
    assert joined.run("tune.py", *settings, "training.num_workers=0")["trials"]["finished"] == 2
    assert trial_processes(joined) == before + 1


def test_a_wrong_search_is_refused_before_anything_starts(workplace, tmp_path):
    settings = (*workplace.settings("tune/quickstart.yaml"), f"output_dir={tmp_path / 'runs'}", "data.path=none")
    with pytest.raises(UserError, match="^space.mformer.num_experts: 0; "):
        plan_search(load_config(TuneExperiment, [*settings, "space.mformer.num_experts={choice: [0]}"], None))
    with pytest.raises(UserError, match="resume: no sweep named"):
        plan_search(load_config(TuneExperiment, [*settings, "resume=true"], None))
    assert list(tmp_path.iterdir()) == []
