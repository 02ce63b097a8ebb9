"""A real SQLite store, processes that record at once, and what a run leaves to be recorded."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from laser.config.schema import TrackingConfig
from laser.tracking.interface import RunResults
from laser.tracking.runs import Tracking, open_tracking


@pytest.fixture
def tracking(tmp_path, monkeypatch) -> Tracking:
    monkeypatch.chdir(tmp_path)
    return open_tracking(TrackingConfig())


@pytest.fixture
def results(tmp_path: Path) -> RunResults:
    directory = tmp_path / "files"
    directory.mkdir()
    (directory / "weights").write_text("w")
    history = [{"epoch": 0.0, "val/ndcg@10": 0.1}, {"epoch": 1.0, "val/ndcg@10": 0.2, "loss": 3.0}]
    return RunResults(history, {"best/ndcg@10": 0.2}, {"checkpoint": directory})


AT_ONCE = """
import sys
import mlflow.store.tracking.sqlalchemy_store  # its import takes seconds, and would keep the processes apart
from laser.config.schema import Experiment, TrackingConfig
from laser.tracking.runs import open_tracking

answers, sys.stdout = sys.stdout, sys.stderr  # MLflow prints addresses
for line in sys.stdin:
    uri, experiment = line.split("\t")
    tracking = open_tracking(TrackingConfig(uri=uri, experiment=experiment.strip()))
    with tracking.run(Experiment(), "train", "one", {}) as run:
        run.report({"val/ndcg@10": 0.1}, 0)
    print(run.run_id, file=answers, flush=True)
"""


@pytest.fixture
def runs_at_once() -> Iterator[Callable[[str, str], set[str]]]:
    """Records a run from each of two processes at once, in the store and experiment that it is given."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", AT_ONCE], **pipes) for _ in range(2)]

    def record(uri: str, experiment: str) -> set[str]:
        for process in processes:
            process.stdin.write(f"{uri}\t{experiment}\n")
            process.stdin.flush()
        runs = [process.stdout.readline().strip() for process in processes]
        assert all(runs), [process.communicate()[1] for process in processes]
        return set(runs)

    yield record
    for process in processes:
        process.communicate()
