"""Runs as plain files, without MLflow."""

import pickle
from pathlib import Path

import pytest

from laser.config.schema import Experiment, TrackingConfig
from laser.errors import UserError
from laser.tracking.folder import FolderRun, FolderTracking
from laser.tracking.interface import RunResults
from laser.tracking.runs import open_records, open_tracking


def opened(folder: Path, must_exist: bool = False) -> FolderTracking:
    tracking = open_records(TrackingConfig(uri=f"folder:{folder}"), must_exist)
    assert isinstance(tracking, FolderTracking)
    return tracking


def finished_run(folder: Path, checkpoint: Path) -> FolderRun:
    """Report one epoch, and record a history of two."""
    history = [{"epoch": 0.0, "val/ndcg@10": 0.1}, {"epoch": 1.0, "val/ndcg@10": 0.2}]
    results = RunResults(history, {"best/ndcg@10": 0.2}, {"checkpoint": checkpoint})
    with opened(folder).run(Experiment(name="mine"), "train", "mine", {"K": 4}) as run:
        run.report({"val/ndcg@10": 0.2}, 1)
        run.record(results)
        run.record(results)
    return run


def test_a_run_is_found_again_with_all_that_was_recorded(tmp_path: Path):
    checkpoint = tmp_path / "made"
    checkpoint.mkdir()
    (checkpoint / "weights").write_bytes(b"weights")
    run_id = finished_run(tmp_path / "records", checkpoint).run_id

    run = opened(tmp_path / "records", must_exist=True).find(run_id)
    assert run.course("val/") == {"ndcg@10": [(0, 0.1), (1, 0.2)]}  # each epoch once
    assert run.figures("best/") == {"ndcg@10": 0.2}
    tags = run.tags()
    assert (tags["K"], tags["kind"], tags["name"], tags["status"]) == ("4", "train", "mine", "FINISHED")
    fetched = run.fetch("checkpoint", tmp_path / "fetched")
    assert (fetched / "weights").read_bytes() == b"weights"
    assert "name: mine" in run.fetch("config.yaml", tmp_path / "fetched").read_text()
    assert pickle.loads(pickle.dumps(run)) == run


def test_a_cut_report_is_left_out(tmp_path: Path):
    run = FolderRun(tmp_path)
    run.report({"loss": 1.0}, 1)
    with (tmp_path / "epochs.jsonl").open("a") as file:
        file.write('{"step": 2, "los')
    assert run.course("") == {"loss": [(1, 1.0)]}


def test_a_failure_is_a_tag(tmp_path: Path):
    with pytest.raises(FloatingPointError), opened(tmp_path).run(Experiment(), "train", "laser", {}) as run:
        raise FloatingPointError("loss nan")
    assert run.tags()["status"] == "FAILED"
    assert run.tags()["error"] == "FloatingPointError: loss nan"


@pytest.mark.parametrize(
    ("uri", "problem"), [("folder:", "name a folder"), ("folder:/nowhere/records", "no such folder")]
)
def test_a_folder_that_is_not_there_is_refused(uri: str, problem: str):
    with pytest.raises(UserError, match=problem):
        open_records(TrackingConfig(uri=uri), must_exist=True)


def test_an_unknown_run_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="run_id: 'abc' is not in"):
        opened(tmp_path).find("abc")


def test_jobs_that_search_among_runs_need_mlflow(tmp_path: Path):
    with pytest.raises(UserError, match=r"tracking\.uri: folder:.*; a folder serves train"):
        open_tracking(TrackingConfig(uri=f"folder:{tmp_path}"))
