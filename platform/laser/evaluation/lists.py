"""Metrics of recommended lists: what is recommended to all users together, whatever the wanted items are.

A new metric of lists is one entry in `LIST_METRICS`, and its title in `laser.evaluation.metrics.TITLES`.
Shape suffixes: E users, I catalogue items, K items of a list, W words.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Lists = NDArray[np.int32]
LIST_SIZE = 10
"""Items of a list (K); fewer where the catalogue is smaller."""


@dataclass(frozen=True)
class ListContext:
    """What a metric may need besides the lists."""

    num_items: int
    """Items among which lists are made: the catalogue, or its cold items."""
    targets: NDArray[np.int32]
    """The wanted item of each user, int32 [E]."""
    train_counts_I: NDArray[np.int64] | None = None
    """Training interactions of each item, int64 [I]; None where the dataset is not at hand."""
    words_IW: "csr_array | None" = None
    """Which words an item's text has, rows of length 1, float64 [I, W]; None where the dataset is not at hand."""


ListMetric = Callable[[Lists, ListContext], float | None]
"""Takes lists_EK (item ids, best first, one list for each user) and their context, and returns one number; None where
the context lacks what it needs."""


def coverage(lists_EK: Lists, context: ListContext) -> float:
    """Share of the catalogue that is in any list: from K / num_items, where all users get the same list, to 1."""
    return len(np.unique(lists_EK)) / context.num_items


def novelty(lists_EK: Lists, context: ListContext) -> float | None:
    """How surprising the recommended items are: -log2 of their share of the training interactions, in bits, on average.

    This is the mean self-information of Zhou et al. (PNAS 2010). An item without an interaction counts as having one.
    """
    if context.train_counts_I is None:
        return None
    counts_I = np.maximum(context.train_counts_I, 1)
    return float(-np.log2(counts_I / context.train_counts_I.sum())[lists_EK].mean())


def popularity_bias(lists_EK: Lists, context: ListContext) -> float | None:
    """Share of the other items that were chosen less often in training: 0.5 for a random choice, near 1 for the top."""
    return None if context.train_counts_I is None else float(more_popular_than(context.train_counts_I)[lists_EK].mean())


def diversity(lists_EK: Lists, context: ListContext) -> float | None:
    """How little the items of one list are alike: 1 - the cosine of their words, on average over all pairs of a list.

    The intra-list distance of Ziegler et al. (WWW 2005). Lists of one item have none.
    """
    size = lists_EK.shape[1]
    if context.words_IW is None or size < 2:
        return None
    from scipy.sparse import csr_array

    # The squared length of the sum of a list's rows holds each pair twice, and each row with itself.
    starts = np.arange(len(lists_EK) + 1) * size
    shape = len(lists_EK), context.words_IW.shape[0]
    which_EI = csr_array((np.ones(lists_EK.size), lists_EK.ravel(), starts), shape=shape)
    sums_EW = which_EI @ context.words_IW
    itself_I = context.words_IW.multiply(context.words_IW).sum(axis=1)
    alike_E = sums_EW.multiply(sums_EW).sum(axis=1) - itself_I[lists_EK].sum(axis=1)
    return float(1 - (alike_E / (size * (size - 1))).mean())


LIST_METRICS: dict[str, ListMetric] = {
    "coverage@10": coverage,
    "novelty@10": novelty,
    "popularity_bias@10": popularity_bias,
    "diversity@10": diversity,
}
"""Metric → its function, in the order of the tables."""


def list_metrics(lists_EK: Lists, context: ListContext) -> dict[str, float]:
    """All metrics of these lists that the context suffices for."""
    assert lists_EK.ndim == 2 and len(lists_EK) == len(context.targets)
    values = {name: metric(lists_EK, context) for name, metric in LIST_METRICS.items()}
    return {name: float(value) for name, value in values.items() if value is not None}


def more_popular_than(popularity_I: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of the other items that each item is more popular than, ties half: float64 [I], from 0 to 1."""
    ordered = np.sort(popularity_I)
    below_I, up_to_I = (np.searchsorted(ordered, popularity_I, side=side) for side in ("left", "right"))
    return (below_I + (up_to_I - below_I - 1) / 2) / max(1, len(popularity_I) - 1)


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
    return {
        "coverage": float((counts_I > 0).sum() / num_items),
        "diversity": 1.0 - shared,
        "popularity_bias": float((counts_I * more_popular_than(popularity_I)).sum() / total),
    }
