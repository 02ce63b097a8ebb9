"""A real SQLite store, and what a run leaves to be recorded."""

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
