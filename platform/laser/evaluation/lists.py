"""Metrics of recommended lists: what is recommended to all users together, whatever the wanted items are.

A new metric of lists is one entry in `LIST_METRICS`, and its title in `laser.evaluation.metrics.TITLES`.
Shape suffixes: E users, I catalogue items, K items of a list.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Lists = NDArray[np.int32]
LIST_SIZE = 10
"""Items of a list (K); fewer where the catalogue is smaller."""


@dataclass(frozen=True)
class ListContext:
    """What a metric may need besides the lists."""

    num_items: int
    """Size of the catalogue."""
    targets: NDArray[np.int32]
    """The wanted item of each user, int32 [E]."""


ListMetric = Callable[[Lists, ListContext], float]
"""Takes lists_EK (item ids, best first, one list for each user) and their context, and returns one number."""


def coverage(lists_EK: Lists, context: ListContext) -> float:
    """Share of the catalogue that is in any list: from K / num_items, where all users get the same list, to 1."""
    return len(np.unique(lists_EK)) / context.num_items


LIST_METRICS: dict[str, ListMetric] = {"coverage@10": coverage}
"""Metric → its function, in the order of the tables."""


def list_metrics(lists_EK: Lists, context: ListContext) -> dict[str, float]:
    """All metrics of these lists."""
    assert lists_EK.ndim == 2 and len(lists_EK) == len(context.targets)
    return {name: float(metric(lists_EK, context)) for name, metric in LIST_METRICS.items()}


def spread(counts_I: NDArray[np.int64], num_lists: int, popularity_I: NDArray[np.int64]) -> dict[str, float]:
    """How recommendations spread over the catalogue, from how often each item stands in lists; each from 0 to 1.

    - coverage: share of the catalogue that is in any list.
    - diversity: share of a list that another user's list lacks, on average over all pairs of users; 0 where everybody
      gets the same list (inter-list distance, Zhou et al., PNAS 2010). 0 for a single list.
    - popularity_bias: share of the other items that were chosen less often in training, on average over the
      recommended items, ties half. 0.5 is that of a random choice, 1 that of the most popular item alone.

    Args:
        counts_I: lists that hold each item; no list repeats an item.
        num_lists: number of lists.
        popularity_I: how often each item was chosen in training.
    """
    total, num_items = int(counts_I.sum()), len(counts_I)
    if not total:
        return {"coverage": 0.0, "diversity": 0.0, "popularity_bias": 0.5}
    together = float((counts_I * (counts_I - 1.0)).sum())
    shared = together / (num_lists - 1) / total if num_lists > 1 else 1.0
    ordered = np.sort(popularity_I)
    below_I, up_to_I = (np.searchsorted(ordered, popularity_I, side=side) for side in ("left", "right"))
    bias_I = (below_I + (up_to_I - below_I - 1) / 2) / max(1, num_items - 1)
    return {
        "coverage": float((counts_I > 0).sum() / num_items),
        "diversity": 1.0 - shared,
        "popularity_bias": float((counts_I * bias_I).sum() / total),
    }
