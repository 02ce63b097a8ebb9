"""Metrics of a ranking with one wanted item per user, and the one list of their names.

A metric that is recorded with every run is one entry in `RANK_METRICS`, and its title in `TITLES`. All tables and
reports read these two. A result that was recorded before has no value of the metric, and its cell is empty. A kind of
metric that looks at the best k items is one entry in `AT_CUTOFF`; `jobs/compare.py` measures it at any k.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from laser.errors import UserError

Ranks = NDArray[np.int64]
RankMetric = Callable[[Ranks], NDArray[np.float64]]
"""Takes the rank of each user's wanted item, int64 [E] from 1, and returns a value for each user, float64 [E]."""

SELECTION_METRIC = "ndcg@10"
"""Chooses epochs, trials and settings on validation, and orders what is compared."""
TITLES = {
    "recall@10": "Recall@10",
    "ndcg@10": "NDCG@10",
    "mrr": "MRR",
    "coverage@10": "Coverage@10",
    "novelty@10": "Novelty@10",
    "popularity_bias@10": "Popularity bias@10",
    "diversity@10": "Diversity@10",
}
"""Metric → how tables and plots write it; a metric that is not named here is written as it is called."""


def recall(ranks: Ranks, cutoff: int) -> NDArray[np.float64]:
    """Whether the wanted item is in a list of this length: with one wanted item, recall is the hit rate."""
    return (ranks <= cutoff).astype(np.float64)


def ndcg(ranks: Ranks, cutoff: int) -> NDArray[np.float64]:
    """Discounted gain, 1 / log2(rank + 1) within the list and 0 beyond: with one wanted item, the ideal gain is 1."""
    return np.where(ranks <= cutoff, 1.0 / np.log2(ranks + 1.0), 0.0)


def reciprocal_rank_within(ranks: Ranks, cutoff: int) -> NDArray[np.float64]:
    """1 / rank within the list and 0 beyond."""
    return np.where(ranks <= cutoff, 1.0 / ranks, 0.0)


def reciprocal_rank(ranks: Ranks) -> NDArray[np.float64]:
    """1 / rank over the whole catalogue, without a cutoff."""
    return 1.0 / ranks


RANK_METRICS: dict[str, RankMetric] = {
    "recall@10": lambda ranks: recall(ranks, 10),
    "ndcg@10": lambda ranks: ndcg(ranks, 10),
    "mrr": reciprocal_rank,
}
"""Metric → its function, in the order of the tables. The paper has three (arXiv 2409.01605, section 4.1)."""


AT_CUTOFF: dict[str, Callable[[Ranks, int], NDArray[np.float64]]] = {
    "recall": recall,
    "hit": recall,
    "ndcg": ndcg,
    "mrr": reciprocal_rank_within,
}
"""Kind of metric → its function of ranks and cutoff: `ndcg@5` is `ndcg` at 5."""
KIND_TITLES = {"recall": "Recall", "hit": "Hit rate", "ndcg": "NDCG", "mrr": "MRR"}


def rank_metric(name: str) -> RankMetric:
    """Return the metric of this name: one of `RANK_METRICS`, or a kind of `AT_CUTOFF` at any cutoff.

    Raises:
        UserError: there is no such metric.
    """
    kind, _, cutoff = name.partition("@")
    if name not in RANK_METRICS and kind in AT_CUTOFF and cutoff.isdecimal() and int(cutoff) > 0:
        return lambda ranks: AT_CUTOFF[kind](ranks, int(cutoff))
    if name not in RANK_METRICS:
        known = ", ".join([*RANK_METRICS, *(f"{kind}@<k>" for kind in AT_CUTOFF)])
        raise UserError(f"metrics: {name!r}; wanted {known}")
    return RANK_METRICS[name]


def ranking_metrics(ranks: Ranks) -> dict[str, float]:
    """Means over the users of all metrics of ranks.

    Args:
        ranks: int64 [E], from 1.

    Returns:
        Metric → mean; those of the paper lie between 0 and 1.

    Raises:
        ValueError: no ranks, of which there is no mean.
    """
    if len(ranks) == 0:
        raise ValueError("no ranks to average: the split holds no users")
    return {name: float(values.mean()) for name, values in user_metrics(ranks).items()}


def user_metrics(ranks: Ranks) -> dict[str, NDArray[np.float64]]:
    """All metrics of ranks for each user: metric → float64 [E]."""
    assert len(ranks) == 0 or ranks.min() >= 1
    return {name: metric(ranks) for name, metric in RANK_METRICS.items()}


def selection_first() -> list[str]:
    """Names of all metrics of ranks, the one that selects before the others."""
    return sorted(RANK_METRICS, key=lambda name: name != SELECTION_METRIC)


def masked_name(name: str) -> str:
    """Name of the same metric for ranks without the user's own history."""
    return f"{name}_masked"


def title(name: str) -> str:
    """The metric as tables and plots write it."""
    kind, at, cutoff = name.partition("@")
    return TITLES.get(name) or (f"{KIND_TITLES[kind]}@{cutoff}" if at and kind in KIND_TITLES else name)
