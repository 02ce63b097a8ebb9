"""A report's arithmetic, by hand."""

import pytest

from laser.evaluation.significance import Comparison
from laser.pages.document import as_markdown
from laser.reproduction.paper import Table
from laser.reproduction.report.tables import Surroundings, table_report
from laser.reproduction.rows import Measured, difference

REFERENCE = Measured("a", "A", None, {"ndcg@10": 0.10}, {0: {"ndcg@10": 0.20}, 1: {"ndcg@10": 0.30}})


def row(ours: dict[int, float], paper: float | None = 0.08, **more) -> Measured:
    numbers = {} if paper is None else {"ndcg@10": paper}
    return Measured("b", "B", "a", numbers, {seed: {"ndcg@10": value} for seed, value in ours.items()}, **more)


def compare(other: Measured):
    return difference(other, [REFERENCE, other], "ndcg@10")


def test_mean_and_spread_over_seeds():
    assert REFERENCE.mean("ndcg@10") == pytest.approx(0.25)
    assert REFERENCE.spread("ndcg@10") == pytest.approx(0.05 * 2**0.5)  # n - 1 below
    assert row({0: 0.1}).spread("ndcg@10") is None
    assert row({}).mean("ndcg@10") is None


def test_a_difference_is_paired_by_seed_and_relative_to_the_reference():
    beside = compare(row({0: 0.15, 1: 0.20, 2: 0.99}))  # the reference has no seed 2
    assert beside.paper == pytest.approx(-20.0)
    assert beside.ours == pytest.approx(100 * ((0.15 - 0.20) + (0.20 - 0.30)) / 2 / 0.25)  # -30 %
    assert beside.error == pytest.approx(10.0)  # the paired ones are -20 and -40: sd 14.1, over the root of 2
    assert beside.num_seeds == 2
    assert beside.verdict == "unclear"  # of two seeds the 95 % interval is 12.7 standard errors to either side


@pytest.mark.parametrize(
    ("ours", "paper", "verdict"),
    [
        ({0: 0.10, 1: 0.20}, 0.08, "as in the paper"),  # both .1 below: no error at all
        ({0: 0.25, 1: 0.35}, 0.08, "not as in the paper"),
        ({0: 0.25, 1: 0.35}, None, "better"),
        ({0: 0.15, 1: 0.35}, 0.08, "unclear"),
        ({0: 0.15}, 0.08, "as in the paper (one seed)"),
        ({0: 0.20}, None, "equal (one seed)"),
        ({}, 0.08, ""),
    ],
)
def test_verdicts(ours, paper, verdict):
    assert compare(row(ours, paper)).verdict == verdict


def test_the_paper_may_give_a_difference_in_place_of_numbers():
    assert compare(row({0: 0.3, 1: 0.4}, paper=None, paper_difference=17.3)).paper == 17.3


def test_what_has_no_reference_differs_from_nothing():
    assert difference(REFERENCE, [REFERENCE], "ndcg@10").ours is None


def test_a_report_shows_the_interval_over_users_in_percent_of_the_reference():
    beside = Comparison(0.05, 0.2, -0.15, -0.18, -0.1, 0.004, -0.5)
    around = Surroundings("data", "Scientific", "LLM", (0,), "python", (), "2 cores", (), {})
    rows = [REFERENCE, row({0: 0.05})]
    page = as_markdown(table_report(Table(name="table 4", title="t", claim="none"), rows, around, {"b": beside}))
    assert "| -90.0 … -50.0 % | 0.0040 |" in page


def test_a_report_shows_what_rows_cost_if_its_table_says_so():
    costs = {"trainable_parameters": 250_000.0, "train_seconds": 12.34, "peak_mib": 900.0, "loss/contrastive": 6.5}
    around = Surroundings("data", "Scientific", "LLM", (0,), "python", (), "2 cores", (), {})
    for shown in (True, False):
        table = Table(name="table tuning", title="t", claim="none", costs=shown)
        page = as_markdown(table_report(table, [row({0: 0.05}, costs=costs)], around))
        cells = [cell.strip() for line in page.splitlines() if "250,000" in line for cell in line.split("|")]
        assert cells[2:-1] == (["250,000", "2.00", "12.3", "900.0", "6.5000", "0.0500"] if shown else [])
