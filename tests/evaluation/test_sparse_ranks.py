"""Sparse scores rank and list as the matrix of all scores does: ties, items without an entry, histories, NaN."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from laser.evaluation import sparse_ranks
from laser.evaluation.ranking import ranks, ranks_without_histories
from laser.evaluation.sparse_ranks import SparseRanking, dense_scores
from laser.evaluation.top_items import top_scores

NUM_USERS, NUM_ITEMS = 60, 40
SHARED = {
    "zero": np.zeros(NUM_ITEMS, dtype=np.float32),
    "few values": (np.arange(NUM_ITEMS) % 4 - 1).astype(np.float32),
    "minus infinity": np.full(NUM_ITEMS, -np.inf, dtype=np.float32),
}


def entries(density: float) -> csr_array:
    """Small whole numbers, so that many tie; columns in no order, as scipy's product leaves them; empty rows."""
    random = np.random.default_rng(0)
    rows = [random.permutation(NUM_ITEMS)[: random.binomial(NUM_ITEMS, density)] for _ in range(NUM_USERS)]
    rows[0] = rows[-1] = rows[7] = np.zeros(0, dtype=np.int64)
    data = random.integers(-2, 4, sum(map(len, rows))).astype(np.float32)
    offsets = np.cumsum([0, *map(len, rows)])
    return csr_array((data, np.concatenate(rows), offsets), shape=(NUM_USERS, NUM_ITEMS))


def flat(histories: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate(histories), np.array([len(history) for history in histories])


@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize("density", [0.0, 0.05, 0.4, 0.95])
def test_ranks_and_lists_are_those_of_all_scores(shared, density):
    random = np.random.default_rng(1)
    entries_BI, ranking = entries(density), SparseRanking(SHARED[shared])
    targets = random.integers(0, NUM_ITEMS, NUM_USERS)
    histories = [random.integers(0, NUM_ITEMS, random.integers(0, 9)).astype(np.int32) for _ in targets]
    histories[3] = np.append(histories[3], targets[3]).astype(np.int32)  # ranks last
    scores_BI = torch.from_numpy(dense_scores(entries_BI, SHARED[shared]))
    for batch in (slice(0, NUM_USERS), slice(5, 9)):  # the second call finds what the first left
        targets_B, part = torch.from_numpy(targets[batch]), scores_BI[batch]
        expected_B = ranks(part, targets_B)
        found, masked = ranking.ranks(entries_BI[batch], targets[batch], *flat(histories[batch]))
        assert found.tolist() == expected_B.tolist()
        assert masked.tolist() == ranks_without_histories(expected_B, part, targets_B, histories[batch]).tolist()
        for size in (1, 3, 10, NUM_ITEMS + 1):
            assert ranking.lists(entries_BI[batch], size).tolist() == top_scores(part, size).tolist()


def test_a_nan_score_is_an_error():
    entries_BI = entries(0.4)
    entries_BI.data[[1, 2]] = np.nan
    with pytest.raises(FloatingPointError, match="NaN scores in 1 of 60 rows"):
        targets, histories = np.zeros(NUM_USERS, dtype=int), flat([np.array([1])] * NUM_USERS)
        SparseRanking(SHARED["zero"]).ranks(entries_BI, targets, *histories)


def test_places_that_share_a_mark_of_the_filter_are_told_apart(monkeypatch):
    monkeypatch.setattr(sparse_ranks, "FILTER_BITS", 2)
    test_ranks_and_lists_are_those_of_all_scores("few values", 0.4)


def test_a_batch_of_a_large_catalogue_has_few_users():
    assert SparseRanking(np.zeros(100_000, dtype=np.float32)).max_users * 100_000 <= 2**25
