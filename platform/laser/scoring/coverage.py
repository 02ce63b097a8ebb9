"""From the scores of users to the users: scaling, groups of similar scores, and the draw among them; numpy alone.

Shape suffix: U users.
"""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Indices = NDArray[np.int64]

PRUNED = -1
"""Stands for the group of users that are left out before the draw."""


def min_max(values_U: Numbers) -> Numbers:
    """Scale values to 0..1; equal ones all become 0."""
    width = np.ptp(values_U)
    return (values_U - values_U.min()) / width if width else np.zeros_like(values_U)


def combined(influence_U: Numbers, effort_U: Numbers | None, effort_weight: float) -> Numbers:
    """Return the scores: scaled influence plus λ times scaled effort (arXiv 2401.17197, Eq. 13).

    The paper does not say how the two come to one scale; its code scales both to 0..1.
    """
    scores_U = min_max(influence_U)
    return scores_U if effort_U is None else scores_U + effort_weight * min_max(effort_U)


def score_groups(scores_U: Numbers, num_groups: int, num_pruned: int) -> Indices:
    """Return the group of each user: K parts of equal width of the range of scores, or PRUNED.

    Args:
        scores_U: the users' scores.
        num_groups: K.
        num_pruned: how many users of the highest scores to leave out; of equal ones, those that come last.
    """
    groups_U = np.full(len(scores_U), PRUNED)
    kept = np.sort(np.argsort(scores_U, kind="stable")[: len(scores_U) - num_pruned])
    groups_U[kept] = np.minimum((min_max(scores_U[kept]) * num_groups).astype(np.int64), num_groups - 1)
    return groups_U


def draw_from_groups(groups_U: Indices, num_users: int, random: np.random.Generator) -> Indices:
    """Draw users so that all groups are covered, and return their indices, sorted (arXiv 2401.17197, Alg. 2).

    The smallest group comes first. Each gives an equal part of what is still to be drawn, or all that it has. What it
    lacks falls to the larger ones.
    """
    drawn: list[Indices] = []
    left = num_users
    groups, sizes = np.unique(groups_U[groups_U != PRUNED], return_counts=True)
    for place, number in enumerate(np.argsort(sizes, kind="stable")):
        budget = min(left // (len(groups) - place), sizes[number])
        drawn.append(random.choice(np.flatnonzero(groups_U == groups[number]), budget, replace=False))
        left -= budget
    return np.sort(np.concatenate(drawn)) if drawn else np.zeros(0, np.int64)


def draw_as_long(lengths_U: Indices, chosen: Indices, random: np.random.Generator) -> Indices:
    """Draw users at random, of each length as many as there are among the chosen ones. Return their indices, sorted."""
    lengths, counts = np.unique(lengths_U[chosen], return_counts=True)
    drawn = [
        random.choice(np.flatnonzero(lengths_U == length), count, replace=False)
        for length, count in zip(lengths, counts, strict=True)
    ]
    return np.sort(np.concatenate(drawn)) if drawn else np.zeros(0, np.int64)


def highest(scores_U: Numbers, num_users: int) -> Indices:
    """Return the indices of the users with the highest scores, sorted; of equal scores, those that come first."""
    return np.sort(np.argsort(-scores_U, kind="stable")[:num_users])
