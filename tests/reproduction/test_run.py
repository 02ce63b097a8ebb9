"""Cells are run once, an interruption costs at most an epoch, and the report says what was measured."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from laser.errors import UserError
from laser.evaluation.user_ranks import TEST_RANKS, read_ranks
from laser.records.results import read_results
from laser.reproduction.benchmark import measure_benchmark
from laser.reproduction.experts import association, expert_users, explained_share
from laser.reproduction.make import listing, write_report
from laser.reproduction.measure import measured_rows
from laser.reproduction.run import forget, look_up, run_missing
from laser.tracking.cells import CellStore
from laser.tracking.environment import environment
from laser.tracking.run import Run
from laser.tracking.runs import open_tracking
from laser.training.model import whole_laser
from laser.training.prepare import prepare_inputs
from laser.training.run.checkpoint import read_checkpoint
from laser.training.run.outcome import read_outcome

ROWS = ("K8-L32", "K4-L32", "K12-L32", "K8-L16", "K8-L48")


class StopsAfter(CellStore):
    """A store at which Ctrl-C arrives when the second cell has done its first epoch."""

    started: list[str] = []

    def start(self, config, name, tags, run_id):
        run = super().start(config, name, tags, run_id)
        self.started.append(name)
        return _Interrupting(run.uri, run.run_id) if len(self.started) == 2 else run


class _Interrupting(Run):
    def report(self, metrics, step):
        super().report(metrics, step)
        if step == 1:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def interrupted(desk):
    """Stopped in the second of five cells."""
    reproduction = desk.look_up("table=7")
    with pytest.raises(KeyboardInterrupt):
        run_missing(reproduction, StopsAfter(desk.tracking))
    return desk.look_up("table=7")


@pytest.fixture(scope="module")
def first_outcome(interrupted):
    return (interrupted.sweep.trial(interrupted.cells[0].overrides).path / "result.json").stat().st_mtime_ns


@pytest.fixture(scope="module")
def finished(desk, interrupted, first_outcome):
    """The same, gone on with."""
    return run_missing(interrupted, desk.store)


def test_a_stopped_reproduction_keeps_what_it_has(interrupted):
    assert [interrupted.state(cell) for cell in interrupted.cells] == ["stored", "1 epochs done", *["to run"] * 3]
    listed = listing(interrupted)
    assert listed["to_run"] == 4 and listed["cells"][0]["seconds"] == 0 and listed["cells"][1]["tokens"] > 0
    [killed] = interrupted.sweep.unfinished_trials()
    assert killed.symbols == {"K": 4}


def test_some_rows_alone_can_be_asked_for(desk, interrupted):
    asked = desk.look_up("table=7", "rows=[K8-L16,K8-L32]")
    assert [cell.row for cell in asked.missing] == ["K8-L16"] and len(asked.cells) == 5
    assert [row.id for row in measured_rows(asked) if row.ours] == ["K8-L32"]
    with pytest.raises(UserError, match="rows: K9 not in table 7; it has: K8-L32, K4-L32"):
        desk.look_up("table=7", "rows=[K9]")


def test_cells_cost_more_where_bf16_is_not_native(desk):
    [dear, cheap] = (desk.look_up("table=7", f"llm.dtype={dtype}", "seeds=[9]") for dtype in ("fp32", "bf16"))
    costs = [listing(reproduction) for reproduction in (dear, cheap)]
    assert costs[0]["tokens"] == costs[1]["tokens"] and costs[0]["seconds"] > 3 * costs[1]["seconds"]


def test_it_goes_on_where_it_stood_and_runs_nothing_twice(desk, finished, first_outcome):
    assert not finished.missing and [finished.state(cell) for cell in finished.cells] == ["stored"] * 5
    first, second = (finished.sweep.trial(cell.overrides).path for cell in finished.cells[:2])
    assert (first / "result.json").stat().st_mtime_ns == first_outcome
    assert read_outcome(second).epochs == 2
    courses = finished.stored[finished.cells[1].key].course("val/ndcg")
    assert [epoch for epoch, _ in courses["@10"]] == [0, 1, 2]  # one run over both sessions
    before = {run.run_id for run in desk.tracking.search("")}
    again = run_missing(desk.look_up("table=7"), desk.store)
    assert {key: run.run_id for key, run in again.stored.items()} == {k: r.run_id for k, r in finished.stored.items()}
    assert {run.run_id for run in desk.tracking.search("")} == before


def test_other_tables_find_the_runs_they_share(desk, finished):
    ours = ("mformer.num_experts=8", "mformer.num_virtual_tokens=32")
    fifth = desk.look_up("table=5", *ours, "name=another")
    assert fifth.stored[fifth.cells[0].key].run_id == finished.stored[finished.cells[0].key].run_id
    assert len(fifth.missing) == 2
    assert not desk.look_up("table=7", "seeds=[1]").stored
    assert not desk.look_up("table=7", "training.learning_rate=0.5").stored


@pytest.mark.parametrize("name", ["q?x=1", "p%20q", "a b \u2603", "."])
def test_data_and_output_may_lie_in_a_folder_of_any_name(name, desk, finished, walks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(walks, tmp_path / name, dirs_exist_ok=True)
    there = desk.look_up("table=7", f"data={name}", f"output_dir={name}")
    assert {key: run.run_id for key, run in there.stored.items()} == {k: r.run_id for k, r in finished.stored.items()}
    assert there.sweep.path.is_relative_to(tmp_path / name) and listing(there)["to_run"] == 0


def test_rows_hold_what_the_runs_reached(finished):
    rows = measured_rows(finished)
    assert [row.id for row in rows] == [*ROWS]
    for row, cell in zip(rows, finished.cells, strict=True):
        outcome = read_outcome(finished.sweep.trial(cell.overrides).path)
        assert row.ours[0]["ndcg@10"] == pytest.approx(outcome.val["ndcg@10"])
        assert outcome.test == read_ranks(finished.sweep.trial(cell.overrides).path / TEST_RANKS).metrics()
        assert 10 / 15 <= outcome.test["coverage@10"] <= 1 and "coverage@10" not in outcome.val
        assert row.paper["ndcg@10"] == finished.table.rows[row.id].paper["Scientific"][1]


def test_the_report_stands_alone_and_warns(finished):
    folder, summary = write_report(finished, environment())
    page = (folder / "report.html").read_text()
    assert "http:" not in page and "https:" not in page and "<script" not in page and "src=" not in page
    assert page.count("<svg") >= 4 and "NDCG@10: difference from the reference row" in page
    text = (folder / "report.md").read_text()
    for warning in (
        "the data is walks0 with 40 users, 15 items",
        "the paper's is ChatGLM2-6B with 28 blocks of width 4096",
        "the schedule differs: stage1_epochs 1, stage2_epochs 1, batch_size 20",
        "the recommender under the M-Former is sasrec",
        "1 seed: differences between rows may be chance",
    ):
        assert warning in text
    assert text.count("> **Not the paper's:** ") >= 6
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| K = ")}
    reached = finished.stored[finished.cells[0].key].figures("best/")
    assert f"{0.1199:.4f}" in text and f"{reached['ndcg@10']:.4f}" in text and len(rows) == 5
    content = json.loads((folder / "report.json").read_text())
    assert [row["id"] for row in content["rows"]] == [*ROWS] and content["table"] == "table 7"
    assert summary["rows"]["K8-L32"]["ndcg@10"] == pytest.approx(reached["ndcg@10"])
    assert "of 8 experts serve any" in text and "category: Cramér's V" in text and "Load of the experts" in text


def test_experts_are_those_that_the_model_itself_chooses(finished):
    cell = finished.cells[0]
    path = finished.sweep.trial(cell.overrides).path
    checkpoint = read_checkpoint(path / "checkpoints" / read_outcome(path).selected)
    experts = expert_users(cell.config, checkpoint.path, path / "recommender")
    assert len(experts.users) == 40 and experts.num_experts == 8 and experts.attribute == "category"
    inputs = prepare_inputs(cell.config)
    laser = whole_laser(cell.config, inputs.artifacts, torch.device("cpu"))
    laser.load_state_dict(checkpoint.trainable(), strict=False)
    for user in range(5):  # one by one, and without padding
        batch = inputs.test.batch([user], [1.0], torch.device("cpu"))
        routing = laser.mformer(batch.encoding_BNC, batch.encoding_mask_BN).routing
        assert experts.experts_E[user] == routing.expert_B.item()
    assert (experts.column("history_length") == 4).all()  # of five items or more, cut to max_history_items
    folder, _ = write_report(finished, environment())
    with pa.memory_map(str(folder / "experts.arrow")) as source:
        assert pa.ipc.open_file(source).read_all().equals(experts.users)


def test_a_result_of_another_store_of_runs_is_recorded_not_run_again(desk, finished, first_outcome):
    elsewhere = f"tracking.uri=sqlite:///{desk.folder / 'other.db'}"
    tracking = open_tracking(desk.job("table=7", elsewhere).tracking)
    found = look_up(desk.job("table=7", elsewhere), finished.table, CellStore(tracking))
    assert len(found.missing) == 5
    again = run_missing(found, CellStore(tracking))
    assert not again.missing
    path = again.sweep.trial(again.cells[0].overrides).path / "result.json"
    assert path.stat().st_mtime_ns == first_outcome


def test_explained_share_and_association_by_hand():
    # Means 2 and 6 around 4: between 4 · 4 = 16, in all 16 + 2 + 2 = 20.
    assert explained_share([1, 3, 5, 7], [0, 0, 1, 1]) == pytest.approx(0.8)
    assert explained_share([2, 2, 2], [0, 1, 1]) == 0.0
    values, experts = ["a", "b"] * 50, [0, 1] * 50
    assert association(values, experts) == pytest.approx(1.0, abs=0.01)
    random = np.random.default_rng(0)
    assert association([str(v) for v in random.integers(0, 3, 3000)], random.integers(0, 4, 3000)) < 0.05
    assert association([None, "a", "a"], [0, 1, 0]) == 0.0


def test_a_small_benchmark_measures_records_and_finds_its_runs_again(desk, finished, tmp_path: Path):
    (tmp_path / "results").mkdir()
    job = desk.job("benchmark=amazon-2014", "families=[popularity,item_knn]", f"results={tmp_path / 'results'}")
    summary = measure_benchmark(job, desk.store, desk.tracking.find, environment())
    report = json.loads(Path(summary["report"]).with_name("report.json").read_text())
    assert list(report["ours"]) == ["popularity", "item_knn", "laser"] and report["published"] == []
    counted, laser = report["ours"]["item_knn"], report["ours"]["laser"]
    assert counted["tries"] == 12 and counted["statistics"] > 0 and counted["tokens"] == 0
    assert laser["runs"] == {"0": finished.stored[finished.cells[0].key].run_id}  # the run of another table
    assert laser["parameters"] > 0 and laser["tokens"] > 0
    assert counted["masked"]["recall@5"] <= counted["masked"]["recall@10"] <= counted["masked"]["recall@50"] == 1.0
    recorded = {result.name: result for result in read_results(tmp_path / "results")}
    assert recorded["walks0-laser"].references == ("walks0-item_knn", "walks0-popularity")
    again = measure_benchmark(job, desk.store, desk.tracking.find, environment())
    assert json.loads(Path(again["report"]).with_name("report.json").read_text())["ours"] == report["ours"]


def test_force_runs_anew_and_keeps_the_old_runs(desk, finished):
    before = {run.run_id for run in finished.stored.values()}
    forget(finished, desk.store)
    anew = desk.look_up("table=7")
    assert [anew.state(cell) for cell in anew.cells] == ["to run"] * 5
    assert before <= {run.run_id for run in desk.tracking.search("")}


def test_a_recommender_that_diverges_takes_no_other_cell_with_it(make_desk, caplog):
    desk = make_desk()
    reproduction = run_missing(desk.look_up("figure=4", "recommender.learning_rate=1e30"), desk.store)
    rows = {cell.key: cell.row for cell in reproduction.cells}
    assert {rows[cell.key] for cell in reproduction.missing} == {"sasrec", "laser-sasrec"}
    assert {rows[key] for key in reproduction.stored} == {"bert4rec", "laser-bert4rec-to-sasrec", "laser-alone"}
    assert "sasrec seed=0: FloatingPointError: " in caplog.text  # in the loss or in the scores, whichever comes first
    [failed] = desk.tracking.search("attributes.status = 'FAILED'")
    assert failed.tags()["recommender"] == "sasrec"
    assert write_report(reproduction, environment())[1]["failed"] == [cell.name for cell in reproduction.missing]
