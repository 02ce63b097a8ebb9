"""Metrics of recommended lists: what is recommended to all users together, whatever the wanted items are.

A new metric of lists is one entry in `LIST_METRICS`, and its title in `laser.evaluation.metrics.TITLES`.
Shape suffixes: E users, K items of a list.
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
