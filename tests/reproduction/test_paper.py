"""Every table is one file: it loads, and its rows are settings. What is wrong in one is named."""

from pathlib import Path

import pytest

from laser.config import jobs
from laser.config.compose import load_config, with_overrides
from laser.config.jobs import ReproduceJob
from laser.config.schema import Experiment
from laser.errors import UserError
from laser.evaluation.metrics import RANK_METRICS
from laser.reproduction import paper
from laser.reproduction.cells import cells_of
from laser.reproduction.paper import read_paper, read_table, table_files

NAMES = [path.stem.replace("-", " ", 1) for path in table_files()]


@pytest.mark.parametrize("name", NAMES)
def test_a_table_has_a_title_and_rows_with_names_of_their_own(name):
    table = read_table(name)
    assert table.title and table.claim and bool(table.rows) != bool(table.counts)
    names = [row.name for row in table.rows.values()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", NAMES)
def test_a_table_is_wanted_by_its_name(name):
    kind, _, number = name.partition(" ")
    job = load_config(ReproduceJob, [f"{kind}={number}"], None)
    assert str(getattr(job, kind)) == number


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_of_each_row_are_accepted(name):
    """Over a base that warms up its head, as the default one does: some rows have to turn that off."""
    base = with_overrides(Experiment(), {"head.width": 8, "head.standardise": True, "warm_start.epochs": 1})
    for row in read_table(name).rows.values():
        changes = dict(row.changes)
        for key, value in row.changes.items():
            if isinstance(value, dict) and "run" in value:
                changes[key] = "run-1"
            elif isinstance(value, dict):
                changes[key] = ReproduceJob.model_fields[value["setting"]].default
        with_overrides(base, changes)


@pytest.mark.parametrize("name", NAMES)
def test_the_papers_numbers_are_whole(name):
    for row in read_table(name).rows.values():
        for dataset in row.paper:
            assert dataset in read_paper().datasets
            metrics = row.paper_metrics(dataset)
            # A recall at 10 is never below the gains of the first ten.
            assert metrics["recall@10"] > metrics["ndcg@10"] > 0


def test_the_paper_prints_metrics_that_are_measured_here():
    assert {*read_paper().metrics} <= {*RANK_METRICS}
    assert read_table("table 4").rows["laser"].paper == read_table("table 2").rows["laser"].paper
    assert read_table("table 7").rows["K8-L48"].paper_metrics("Scientific")["mrr"] == 0.0644


def test_a_name_that_is_no_file_is_refused_with_those_that_are():
    with pytest.raises(UserError, match=r"table: \"ablation\"; should be 2, 3, 4, 5, 6, 7, 'additions'"):
        load_config(ReproduceJob, ["table=ablation"], None)


TABLE = """
title: Mine
split: val
claim: none; it is ours.
rows:
  base: {name: base, kind: laser}
  wide: {name: wide, kind: laser, reference: base, changes: {mformer.hidden_size: 32}}
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes the file of a table into a folder of its own, in place of those that are there."""
    monkeypatch.setattr(paper, "TABLES", tmp_path)
    monkeypatch.setattr(jobs, "TABLES", tmp_path)
    read_table.cache_clear()

    def make(text: str) -> None:
        (tmp_path / "table-mine.yaml").write_text(text)

    yield make
    read_table.cache_clear()


def test_a_new_table_is_one_file(write, desk):
    write(TABLE)
    assert jobs._names("table") == ("mine",) and jobs._names("figure") == ()
    cells = cells_of(read_table("table mine"), desk.job("table=4"))
    assert [(cell.row, cell.config.mformer.hidden_size) for cell in cells] == [("base", 16), ("wide", 32)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("split: val", "split: train", r"split: \"train\"; should be 'val' or 'test'"),
        ("reference: base", "reference: bass", "rows.wide: no row 'bass'; there are: base, wide"),
        ("reference: base", "references: base", "rows.wide.references: "),
        ("hidden_size: 32", "hidden_size: {run: other}", "rows.wide: no row 'other'"),
        ("kind: laser}", "kind: laser, paper: {Pet: [.1, .2]}}", r"rows.base.paper: Pet: \[0.1, 0.2\]; wanted one of"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(write, old, new, message):
    write(TABLE.replace(old, new, 1))
    with pytest.raises(UserError, match=message) as error:
        read_table("table mine")
    assert "table-mine.yaml" in str(error.value)
