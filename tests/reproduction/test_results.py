"""Recorded results: runs and files in, a page out; what does not belong together is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from laser.config.schema import Experiment
from laser.errors import UserError
from laser.evaluation.metrics import RANK_METRICS
from laser.evaluation.user_ranks import UserRanks
from laser.records.record import update_results
from laser.records.results import read_results

USERS = np.arange(50, dtype=np.int32)


def ranks(best: int) -> UserRanks:
    """Every second user's item is first, the others' at `best`."""
    values = np.where(USERS % 2, 1, best).astype(np.int64)
    return UserRanks(USERS, USERS, values, values)


@pytest.fixture
def record(desk, tmp_path):
    """Record a run as jobs do: settings, metrics, ranks."""

    def make(seed: int, best: int, **settings) -> str:
        data = {"path": str(Path.cwd().parent / "walks")}  # jobs record where it lies as a whole path
        stack = {"type": "stack", "trained": {"type": "sasrec", "seed": seed}}
        sections = {"training": {"seed": seed, **settings}, "data": data, "recommender": stack}
        config = Experiment.model_validate(sections)
        tags = {"dataset": "walks", "dataset_fingerprint": "f"}
        run = desk.tracking.start(config, "train", "good run", tags)
        of_user = ranks(best)
        metrics = of_user.metrics().items()
        run.summarise({f"{split}/{name}": value for split in ("best", "test") for name, value in metrics})
        run.summarise({"seconds": 12.0 + 2 * seed, "trainable_parameters": 1234.0, "histories_per_second": 3.0})
        of_user.write(tmp_path / str(seed) / str(best) / "test.parquet")
        run.log_directory(tmp_path / str(seed) / str(best), "ranks")
        run.log_directory(tmp_path / str(seed) / str(best), "checkpoint")
        run.finish("FINISHED")
        return run.run_id

    return make


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "results"
    path.mkdir()
    return path


def update(desk, folder, *arguments):
    return update_results(desk.job(f"results={folder}", *arguments), desk.tracking.find)


def test_runs_become_files_and_files_a_page(desk, record, folder):
    runs = [record(seed, best=2) for seed in (0, 1)]
    update(desk, folder, "add=weak", f"runs=[{record(0, best=8)}]")
    summary = update(desk, folder, "add=strong", f"runs=[{','.join(runs)}]", "references=[weak]")
    assert summary["results"] == ["strong", "weak"] and summary["added"] == "strong"
    content = json.loads((folder / "strong.json").read_text())
    assert content["seeds"]["1"]["run_id"] == runs[1] and content["config"]["training"]["seed"] == 0
    assert content["config"]["data"]["path"] == "../walks"
    assert content["commit"] and content["hardware"]["cores"] and content["packages"]["torch"]
    page = (folder / "README.md").read_text()
    # Half of the users have 1, the others 1 / log2(3) and 1 / log2(9): the means differ by .1577.
    strong, weak = (1 + 1 / np.log2(3)) / 2, (1 + 1 / np.log2(9)) / 2
    assert f"{strong:.4f} ± 0.0000" in page and f"{weak:.4f}" in page
    costs = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| strong ")][1]
    assert [cell.strip() for cell in costs] == ["strong", "13", "1,234", "", ""], "the mean over the seeds"
    assert content["seeds"]["1"]["costs"] == {"seconds": 14.0, "trainable_parameters": 1234.0}
    compared = [line for line in page.splitlines() if line.startswith("| strong, seed")]
    assert len(compared) == 4 and all(f"{strong - weak:+.4f}" in line and "0.0001" in line for line in compared)
    assert "Reports of tables" not in page
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    update(desk, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "table-4").mkdir()
    (folder / "table-4" / "report.md").write_text("# Table 4\n")
    update(desk, folder)
    assert "[table-4](table-4/report.md)" in (folder / "README.md").read_text()


def cells_of(page: str, result: str) -> dict[str, str]:
    """The line of a result in the first table of a page: heading → cell."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    return dict(zip(lines[0], next(line for line in lines if line[0] == result), strict=True))


def test_a_metric_that_was_added_later_leaves_an_empty_cell(desk, record, folder, monkeypatch):
    update(desk, folder, "add=old", f"runs=[{record(0, best=2)}]")
    monkeypatch.setitem(RANK_METRICS, "recall@1", lambda ranks: (ranks <= 1).astype(np.float64))
    update(desk, folder, "add=new", f"runs=[{record(1, best=2)}]", "references=[old]")
    page = (folder / "README.md").read_text()
    assert cells_of(page, "old")["Recall@1"] == "" and cells_of(page, "new")["Recall@1"] == "0.5000"
    assert cells_of(page, "old")["NDCG@10"] == cells_of(page, "new")["NDCG@10"] != ""


def test_metrics_of_lists_have_a_column_where_a_result_has_any(desk, record, folder):
    update(desk, folder, "add=old", f"runs=[{record(0, best=2)}]")
    update(desk, folder, "add=new", f"runs=[{record(1, best=2)}]")
    assert "Coverage@10" not in (folder / "README.md").read_text()
    content = json.loads((folder / "new.json").read_text())
    content["seeds"]["1"]["test"]["coverage@10"] = 0.25
    (folder / "new.json").write_text(json.dumps(content))
    update(desk, folder)
    page = (folder / "README.md").read_text()
    assert (cells_of(page, "old")["Coverage@10"], cells_of(page, "new")["Coverage@10"]) == ("", "0.2500")


def test_runs_of_other_settings_are_not_one_result(desk, record, folder):
    runs = [record(0, best=2), record(1, best=2, batch_size=8)]
    with pytest.raises(UserError, match=r"has training.batch_size=8, the first 4"):
        update(desk, folder, "add=mixed", f"runs=[{','.join(runs)}]")
    assert not list(folder.glob("*.json"))


def test_a_seed_counts_once(desk, record, folder):
    runs = [record(0, best=2), record(0, best=8)]
    with pytest.raises(UserError, match="has seed 0 as another has"):
        update(desk, folder, "add=twice", f"runs=[{','.join(runs)}]")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add=a",), "give both, a name and the MLflow run id"),
        (("results=/nowhere/at/all",), "no such folder"),
        (("add=a", "runs=[nowhere]"), "is not in sqlite"),
    ],
)
def test_a_wrong_request_is_the_users_mistake(desk, record, folder, arguments, message):
    record(0, best=2)
    with pytest.raises(UserError, match=message):
        update(desk, folder, *arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"references": ["nobody"]}, "references: no result 'nobody'"),
        ({"name": "another"}, "name: 'another'; wanted 'good'"),
        ({"seeds": {}}, "seeds: "),
        ({"surprise": 1}, "surprise: "),
    ],
)
def test_a_file_that_is_no_result_is_named(desk, record, folder, change, message):
    update(desk, folder, "add=good", f"runs=[{record(0, best=2)}]")
    path = folder / "good.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message) as error:
        read_results(folder)
    assert "good.json" in str(error.value)


def test_ranks_that_are_not_there_are_named(desk, record, folder):
    update(desk, folder, "add=good", f"runs=[{record(0, best=2)}]")
    (folder / "good-seed0.parquet").unlink()
    with pytest.raises(UserError, match="ranks: no file"):
        read_results(folder)
