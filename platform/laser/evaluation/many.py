"""Which of many systems differ? Tests of all pairs on the same users, corrected for their number.

Each pair is tested by randomisation: if two systems are alike, each user's difference could as well have the other
sign (Fisher, 1935; Smucker et al., CIKM 2007, find it and the bootstrap to agree for means). Of 20 tests at 5 %, one is
expected to reject a true null hypothesis. Holm's p values bound the chance that any does; those of Benjamini and
Hochberg bound the expected share of wrong ones among the rejected.

Shape suffixes: S systems, E users, P pairs, R rounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from laser.evaluation.significance import RESAMPLES_AT_ONCE, resampled_means

POWER = 0.8
"""Chance to find the smallest difference that `detectable` names."""


@dataclass(frozen=True)
class Pair:
    """Two systems on the same users; differences are the first less the second."""

    first: int
    second: int
    """Numbers of the systems."""
    difference: float
    low: float
    high: float
    """95 % interval of the difference, by the paired bootstrap."""
    effect_size: float
    """Cohen's d of paired samples: the difference over its standard deviation across users; 0.2 is called small."""
    detectable: float
    """The smallest true difference that a test at `alpha` finds with a chance of 80 %, for so many users who differ so
    much. A difference that was not found may still be as large as this."""
    p_value: float
    """Two-sided, of the randomisation test of this pair alone."""
    holm: float
    """The same, corrected by Holm over all pairs."""
    false_discovery: float
    """The same, corrected by Benjamini and Hochberg."""


def intervals(values_SE: NDArray[np.float64], num_resamples: int, seed: int) -> NDArray[np.float64]:
    """95 % intervals of the systems' means by the bootstrap over users: float64 [S, 2]."""
    return np.percentile(resampled_means(values_SE.T, num_resamples, seed), [2.5, 97.5], axis=0).T


def compare_all(values_SE: NDArray[np.float64], num_rounds: int, seed: int = 0, alpha: float = 0.05) -> list[Pair]:
    """Compare all pairs of systems.

    Args:
        values_SE: a metric of each user under each system, the users in the same order.
        num_rounds: resamples, and random signs; a p value is at least 1 / (this + 1).
        seed: of both.
        alpha: level of the tests that `detectable` speaks of.
    """
    pairs = list(combinations(range(len(values_SE)), 2))
    if not pairs:
        return []
    differences_EP = np.stack([values_SE[first] - values_SE[second] for first, second in pairs], axis=1)
    seen_P = differences_EP.mean(axis=0)
    std_P = differences_EP.std(axis=0, ddof=1) if len(differences_EP) > 1 else np.zeros(len(pairs))
    low_P, high_P = np.percentile(resampled_means(differences_EP, num_rounds, seed), [2.5, 97.5], axis=0)
    p_P = randomisation(differences_EP, num_rounds, seed)
    holm_P, discovery_P = holm(p_P), benjamini_hochberg(p_P)
    detectable_P = detectable_difference(std_P, len(differences_EP), alpha)
    effect_P = np.divide(seen_P, std_P, out=np.zeros_like(seen_P), where=std_P > 0)
    columns = (seen_P, low_P, high_P, effect_P, detectable_P, p_P, holm_P, discovery_P)
    return [Pair(*pair, *(float(column[row]) for column in columns)) for row, pair in enumerate(pairs)]


def randomisation(differences_EP: NDArray[np.float64], num_rounds: int, seed: int = 0) -> NDArray[np.float64]:
    """Two-sided p values of paired randomisation: how often random signs give a mean as far from zero; float64 [P]."""
    random, num_users = np.random.default_rng(seed), len(differences_EP)
    seen_P = np.abs(differences_EP.sum(axis=0)) * (1 - 1e-9)  # a sum that differs by rounding alone is as far
    as_far_P = np.zeros(differences_EP.shape[1], dtype=np.int64)
    for start in range(0, num_rounds, RESAMPLES_AT_ONCE):
        size = min(RESAMPLES_AT_ONCE, num_rounds - start)
        signs_RE = random.integers(0, 2, (size, num_users), dtype=np.int8) * 2.0 - 1.0
        as_far_P += (np.abs(signs_RE @ differences_EP) >= seen_P).sum(axis=0)
    return (1 + as_far_P) / (1 + num_rounds)


def holm(p_values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Correct by Holm (1979): the smallest of n is multiplied by n, the next by n - 1, …, and none is below another."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return corrected


def benjamini_hochberg(p_values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Correct by Benjamini and Hochberg (1995)."""
    from scipy.stats import false_discovery_control  # it takes a second to import

    return np.asarray(false_discovery_control(p_values))


def detectable_difference(std: float | NDArray[np.float64], num_users: int, alpha: float = 0.05) -> NDArray[np.float64]:
    """The smallest true mean difference that a two-sided test at `alpha` finds with a chance of 80 %."""
    normal = NormalDist()
    return np.asarray(std) * (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(POWER)) / np.sqrt(num_users)
