"""Metrics against arithmetic by hand."""

import numpy as np
import pytest

from laser.evaluation.metrics import ndcg, ranking_metrics, recall


def test_metrics_equal_arithmetic_by_hand():
    metrics = ranking_metrics(np.array([1, 3, 10, 11]))
    # 1/log2(2) = 1, 1/log2(4) = 0.5, 1/log2(11) = 0.2890648263, and nothing beyond the tenth place.
    assert metrics == pytest.approx(
        {"recall@10": 3 / 4, "ndcg@10": (1 + 0.5 + 0.2890648263178879) / 4, "mrr": (1 + 1 / 3 + 1 / 10 + 1 / 11) / 4},
        rel=1e-12,
    )


def test_the_cutoff_is_the_length_of_the_list():
    ranks = np.array([1, 2, 4])
    assert recall(ranks, 2).tolist() == [1, 1, 0]
    assert ndcg(ranks, 2) == pytest.approx([1, 0.6309297535714575, 0], rel=1e-12)  # 1/log2(3)


def test_one_hundred_last_places_are_worth_next_to_nothing():
    metrics = ranking_metrics(np.full(100, 1000))
    assert metrics == pytest.approx({"recall@10": 0.0, "ndcg@10": 0.0, "mrr": 0.001})


def test_no_ranks_have_no_mean():
    with pytest.raises(ValueError, match="no ranks"):
        ranking_metrics(np.array([], dtype=np.int64))
