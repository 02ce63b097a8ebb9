"""What every metric of ranks and of lists keeps to: a new entry of the two dictionaries is tested by being listed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from laser.errors import UserError
from laser.evaluation.lists import LIST_METRICS, ListContext, list_metrics
from laser.evaluation.metrics import (
    AT_CUTOFF,
    RANK_METRICS,
    SELECTION_METRIC,
    masked_name,
    rank_metric,
    selection_first,
    title,
    user_metrics,
)
from laser.evaluation.significance import compare
from laser.evaluation.user_ranks import UserRanks, read_ranks

NUM_ITEMS = 200
RANKS = np.random.default_rng(0).integers(1, NUM_ITEMS + 1, 500)
LISTS_EK = np.stack([np.random.default_rng(user).permutation(NUM_ITEMS)[:10] for user in range(30)]).astype(np.int32)
COUNTS_I = np.random.default_rng(2).integers(0, 50, NUM_ITEMS)
WORDS_IW = csr_array(np.random.default_rng(3).integers(0, 2, (NUM_ITEMS, 9)) / 3.0)
TARGETS_E = np.arange(30, dtype=np.int32)
CONTEXT = ListContext(NUM_ITEMS, TARGETS_E, COUNTS_I, WORDS_IW)


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
    shuffled = LIST_METRICS[name](LISTS_EK[order], replace(CONTEXT, targets=TARGETS_E[order]))
    assert value is not None and np.isfinite(value) and value == pytest.approx(shuffled, rel=1e-12)


def test_coverage_by_hand():
    def coverage(lists: list[list[int]], num_items: int) -> float:
        lists_EK = np.array(lists, dtype=np.int32)
        return list_metrics(lists_EK, ListContext(num_items, np.zeros(len(lists), dtype=np.int32)))["coverage@10"]

    assert coverage([[0, 1], [1, 2], [2, 0]], 12) == 3 / 12
    assert coverage([[0, 1], [2, 3]], 4) == 1.0  # all items
    assert coverage([[0, 1]] * 50, 20) == 2 / 20  # a constant scorer, or popularity: one list for everybody


def test_metrics_that_lack_the_dataset_are_left_out():
    assert list(list_metrics(LISTS_EK, ListContext(NUM_ITEMS, TARGETS_E))) == ["coverage@10"]
    assert list(list_metrics(LISTS_EK, CONTEXT)) == list(LIST_METRICS)


def test_novelty_and_popularity_bias_by_hand():
    lists_EK = np.array([[0, 1], [0, 2]], dtype=np.int32)
    context = ListContext(4, np.zeros(2, dtype=np.int32), np.array([8, 4, 0, 4]))
    found = list_metrics(lists_EK, context)
    assert found["novelty@10"] == (1 + 2 + 1 + 4) / 4  # shares 1/2, 1/4, and 1/16 for the item without interaction
    # Item 0 is above 3 of 3 others; item 1 above one, and ties with another; item 2 above none.
    assert found["popularity_bias@10"] == pytest.approx((1 + 0.5 + 1 + 0) / 4)


def test_diversity_by_hand():
    words_IW = csr_array(np.array([[1.0, 0, 0], [0, 1, 0], [0.6, 0.8, 0], [0, 0, 0]]))
    context = ListContext(4, np.zeros(2, dtype=np.int32), None, words_IW)
    # Cosines of 0 and 1: 0; 0 and 2: .6; 1 and 2: .8. An item without words is like no other.
    assert list_metrics(np.array([[0, 1, 2]] * 2), context)["diversity@10"] == pytest.approx(1 - 1.4 / 3)
    assert list_metrics(np.array([[0, 3], [3, 1]]), context)["diversity@10"] == pytest.approx(1)


@pytest.mark.parametrize("kind", AT_CUTOFF)
def test_a_kind_of_metric_is_measured_at_any_cutoff(kind):
    values_E = rank_metric(f"{kind}@3")(np.array([1, 3, 4]))
    assert values_E[0] == 1 and values_E[1] > 0 and values_E[2] == 0
    assert title(f"{kind}@3").endswith("@3") and title(f"{kind}@3") != f"{kind}@3"


def test_metrics_at_a_cutoff_by_hand():
    ranks = np.array([1, 2, 5, 6])
    assert rank_metric("mrr@5")(ranks).tolist() == [1, 0.5, 0.2, 0]
    assert rank_metric("ndcg@2")(ranks) == pytest.approx([1, 0.6309297535714575, 0, 0])
    assert rank_metric("hit@5")(ranks).tolist() == rank_metric("recall@5")(ranks).tolist() == [1, 1, 1, 0]
    for name in ("ndcg@0", "ndcg@", "precision@5", "ndcg@1.5", "coverage@10"):
        with pytest.raises(UserError, match=r"metrics: .*; wanted recall@10, ndcg@10, mrr, recall@<k>"):
            rank_metric(name)


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
