"""Metrics of a ranking with one wanted item per user."""

import numpy as np
from numpy.typing import NDArray

SELECTION_METRIC = "ndcg@10"


def ranking_metrics(ranks: np.ndarray, cutoff: int = 10) -> dict[str, float]:
    """Means over the users of the three metrics of the paper (arXiv 2409.01605, section 4.1).

    Args:
        ranks: int64 [E], from 1.
        cutoff: length of the recommended list.

    Returns:
        ``recall@<cutoff>``, ``ndcg@<cutoff>``, and ``mrr`` over the whole catalogue (not cut), each from 0 to 1.

    Raises:
        ValueError: no ranks, of which there is no mean.
    """
    if len(ranks) == 0:
        raise ValueError("no ranks to average: the split holds no users")
    return {name: float(values.mean()) for name, values in user_metrics(ranks, cutoff).items()}


def user_metrics(ranks: np.ndarray, cutoff: int = 10) -> dict[str, NDArray[np.float64]]:
    """The same metrics of each user, float64 [E].

    With one relevant item, recall is the hit rate, and the ideal DCG is 1, so that NDCG is 1 / log2(rank + 1).
    """
    assert len(ranks) == 0 or ranks.min() >= 1
    hit = ranks <= cutoff
    return {
        f"recall@{cutoff}": hit.astype(np.float64),
        f"ndcg@{cutoff}": np.where(hit, 1.0 / np.log2(ranks + 1.0), 0.0),
        "mrr": 1.0 / ranks,
    }
