"""Groups of users for which metrics are shown apart. A new way to group is one entry in `SEGMENTS`.

Shape suffixes: E users, I catalogue items.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HEAD_SHARE = 0.2
"""Share of the items that are the head: those with the most training interactions."""
PARTS = 3
"""Groups of history lengths, as equal in users as the lengths allow."""


@dataclass(frozen=True)
class SegmentContext:
    """What is known of the evaluated users."""

    history_lengths_E: NDArray[np.int64]
    """Items of the whole history."""
    targets_E: NDArray[np.int32]
    """The wanted item."""
    train_counts_I: NDArray[np.int64]
    """Training interactions of each item."""
    after_cut_E: NDArray[np.float64] | None = None
    """When the target was taken: 0 at the cut, 1 at the end of the data; None where there is no common cut."""
    horizons: int = 1
    """Parts of the time after the cut."""


Grouping = tuple[list[str], NDArray[np.int64]]
"""Names of the groups, and the number of each user's group."""


def history_length(context: SegmentContext) -> Grouping:
    """Short, middling and long histories."""
    lengths_E = context.history_lengths_E
    edges = np.unique(np.quantile(lengths_E, np.arange(1, PARTS) / PARTS, method="higher"))
    edges = edges[edges < lengths_E.max()]
    bounds = [int(lengths_E.min()), *(int(edge) + 1 for edge in edges), int(lengths_E.max()) + 1]
    names = [f"history of {_span(low, high - 1)} items" for low, high in zip(bounds[:-1], bounds[1:], strict=True)]
    return names, np.searchsorted(edges, lengths_E, side="left")


def target_popularity(context: SegmentContext) -> Grouping:
    """Wanted items of the head and of the tail, and cold ones, which were never trained on."""
    counts_I = context.train_counts_I
    head_I = np.zeros(len(counts_I), dtype=np.bool_)
    head_I[np.argsort(-counts_I, kind="stable")[: round(HEAD_SHARE * len(counts_I))]] = True
    group_I = np.where(counts_I == 0, 2, np.where(head_I, 0, 1))
    names = [
        f"target in the head ({HEAD_SHARE:.0%} of the items)",
        "target in the tail",
        "target cold (never trained on)",
    ]
    return names, group_I[context.targets_E]


def horizon(context: SegmentContext) -> Grouping | None:
    """Targets soon after the common cut, and later; None where there is no common cut."""
    if context.after_cut_E is None:
        return None
    names = [f"target in part {part + 1} of {context.horizons} after the cut" for part in range(context.horizons)]
    return names, np.minimum((context.after_cut_E * context.horizons).astype(np.int64), context.horizons - 1)


SEGMENTS: dict[str, Callable[[SegmentContext], Grouping | None]] = {
    "history length": history_length,
    "target popularity": target_popularity,
    "horizon": horizon,
}
"""Name → function, which gives each user one group, or None where the data have no such groups."""


def segments(context: SegmentContext) -> dict[str, NDArray[np.bool_]]:
    """Return the users of each group that has any, by the group's name: bool [E]."""
    groupings = filter(None, (group(context) for group in SEGMENTS.values()))
    users = {name: group_E == number for names, group_E in groupings for number, name in enumerate(names)}
    return {name: users_E for name, users_E in users.items() if users_E.any()}


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
