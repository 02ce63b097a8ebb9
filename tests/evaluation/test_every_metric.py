"""What every metric of ranks and of lists keeps to: a new entry of the two dictionaries is tested by being listed."""

from pathlib import Path

import numpy as np
import pytest

from laser.evaluation.lists import LIST_METRICS, ListContext, list_metrics
from laser.evaluation.metrics import RANK_METRICS, SELECTION_METRIC, masked_name, selection_first, title, user_metrics
from laser.evaluation.significance import compare
from laser.evaluation.user_ranks import UserRanks, read_ranks

NUM_ITEMS = 200
RANKS = np.random.default_rng(0).integers(1, NUM_ITEMS + 1, 500)
LISTS_EK = np.stack([np.random.default_rng(user).permutation(NUM_ITEMS)[:10] for user in range(30)]).astype(np.int32)
CONTEXT = ListContext(NUM_ITEMS, np.arange(30, dtype=np.int32))


def of_users(ranks: np.ndarray, lists_EK: np.ndarray | None = None) -> UserRanks:
    users = np.arange(len(ranks), dtype=np.int32)
    ranks = ranks.astype(np.int64)
    return UserRanks(users, users, ranks, ranks[::-1].copy(), lists_EK, 0 if lists_EK is None else NUM_ITEMS)


@pytest.mark.parametrize("name", RANK_METRICS)
def test_a_metric_of_ranks_gives_each_user_a_number_from_0_to_1(name):
    values_E = RANK_METRICS[name](RANKS)
    assert values_E.dtype == np.float64 and values_E.shape == RANKS.shape
    assert (values_E >= 0).all() and (values_E <= 1).all()


@pytest.mark.parametrize("name", RANK_METRICS)
def test_the_perfect_scorer_has_1_and_the_worst_and_the_constant_ones_next_to_nothing(name):
    """A constant scorer ranks every target last, as the worst does: ties count against the model."""
    metric = RANK_METRICS[name]
    assert (metric(np.ones(7, dtype=np.int64)) == 1).all()
    assert metric(np.full(7, NUM_ITEMS)).max() <= 1 / NUM_ITEMS


@pytest.mark.parametrize("name", RANK_METRICS)
def test_a_better_rank_is_never_worth_less(name):
    assert (np.diff(RANK_METRICS[name](np.arange(1, NUM_ITEMS + 1))) <= 0).all()


@pytest.mark.parametrize("name", RANK_METRICS)
def test_the_order_of_users_decides_nothing_of_ranks(name):
    order = np.random.default_rng(1).permutation(len(RANKS))
    assert np.array_equal(RANK_METRICS[name](RANKS[order]), RANK_METRICS[name](RANKS)[order])


@pytest.mark.parametrize("name", LIST_METRICS)
def test_a_metric_of_lists_is_one_finite_number_whatever_the_order_of_users(name):
    value = LIST_METRICS[name](LISTS_EK, CONTEXT)
    order = np.random.default_rng(1).permutation(len(LISTS_EK))
    shuffled = LIST_METRICS[name](LISTS_EK[order], ListContext(NUM_ITEMS, CONTEXT.targets[order]))
    assert np.isfinite(value) and value == pytest.approx(shuffled, rel=1e-12)


def test_coverage_by_hand():
    def coverage(lists: list[list[int]], num_items: int) -> float:
        lists_EK = np.array(lists, dtype=np.int32)
        return list_metrics(lists_EK, ListContext(num_items, np.zeros(len(lists), dtype=np.int32)))["coverage@10"]

    assert coverage([[0, 1], [1, 2], [2, 0]], 12) == 3 / 12
    assert coverage([[0, 1], [2, 3]], 4) == 1.0  # all items
    assert coverage([[0, 1]] * 50, 20) == 2 / 20  # a constant scorer, or popularity: one list for everybody


def test_the_selecting_metric_is_one_of_them_and_comes_first():
    names = selection_first()
    assert names[0] == SELECTION_METRIC and sorted(names) == sorted(RANK_METRICS)
    assert [title(name) for name in ("ndcg@10", "coverage@10", "new")] == ["NDCG@10", "Coverage@10", "new"]


def test_a_new_metric_of_ranks_is_counted_and_compared(monkeypatch):
    monkeypatch.setitem(RANK_METRICS, "recall@1", lambda ranks: (ranks <= 1).astype(np.float64))
    ours, theirs = of_users(np.array([1, 1, 5, 1])), of_users(np.array([1, 2, 5, 2]))
    assert user_metrics(ours.ranks)["recall@1"].tolist() == [1, 1, 0, 1]
    assert (ours.metrics()["recall@1"], theirs.metrics()[masked_name("recall@1")]) == (0.75, 0.25)
    found = compare(ours, theirs, num_resamples=20)
    assert found["recall@1"].difference == found["recall@1_masked"].difference == 0.5


def test_a_new_metric_of_lists_is_counted_and_read_from_a_file(monkeypatch, tmp_path: Path):
    monkeypatch.setitem(LIST_METRICS, "first_is_even", lambda lists_EK, context: (lists_EK[:, 0] % 2 == 0).mean())
    ours = of_users(RANKS[:30], LISTS_EK)
    assert ours.metrics()["first_is_even"] == (LISTS_EK[:, 0] % 2 == 0).mean()
    assert "first_is_even" not in of_users(RANKS[:30]).metrics()  # no lists, no value
    ours.write(tmp_path / "test.parquet")
    assert read_ranks(tmp_path / "test.parquet").metrics() == ours.metrics()
