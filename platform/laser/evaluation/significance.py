"""Is one system better than another for users like these? Paired bootstrap over users (Efron and Tibshirani, 1993).

At the size of recommender test sets, Wilcoxon's and the sign test reject true null hypotheses too often, while
resampling does not, and nearly any difference becomes significant; so the size of the effect is reported beside the
p value (Ihemelandu and Ekstrand, SIGIR 2023).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from laser.errors import UserError
from laser.evaluation.metrics import masked_name, rank_metric, user_metrics
from laser.evaluation.user_ranks import UserRanks

RESAMPLES_AT_ONCE = 64
"""Resamples that are drawn together: 64 of 10,000 users take 5 MB."""


@dataclass(frozen=True)
class Comparison:
    """A metric of one system less that of another, over the same users."""

    ours: float
    theirs: float
    difference: float
    low: float
    high: float
    """Bounds of the 95 % confidence interval of the difference: percentiles of the resampled means."""
    p_value: float
    """Two-sided: how often resampled differences, shifted to mean zero, are at least as far from it as the one seen."""
    effect_size: float
    """Cohen's d of paired samples: mean difference over its standard deviation across users; 0.2 is called small."""


def compare(ours: UserRanks, theirs: UserRanks, num_resamples: int = 10_000, seed: int = 0) -> dict[str, Comparison]:
    """Compare all metrics of ranks, masked and not, each on the same resampled users.

    Args:
        ours: ranks of one system.
        theirs: ranks of another, on the same users and targets in any order.
        num_resamples: draws of as many users as there are, with replacement; a p value is at least 1 / (this + 1).
        seed: of the draws.

    Raises:
        UserError: the two have other users or targets.
    """
    first, second = _orders([ours, theirs])
    values: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    mine, others = user_metrics(ours.ranks[first]), user_metrics(theirs.ranks[second])
    values |= {name: (mine[name], others[name]) for name in mine}
    mine, others = user_metrics(ours.masked[first]), user_metrics(theirs.masked[second])
    values |= {masked_name(name): (mine[name], others[name]) for name in mine}
    names = list(values)
    differences_EM = np.stack([mine - others for mine, others in values.values()], axis=1)
    means_SM = resampled_means(differences_EM, num_resamples, seed)
    return {
        name: _comparison(*values[name], differences_EM[:, number], means_SM[:, number])
        for number, name in enumerate(names)
    }


def compare_seeds(
    ours: Sequence[UserRanks], theirs: Sequence[UserRanks], metric: str, num_resamples: int = 10_000, seed: int = 0
) -> Comparison:
    """Compare one metric of two systems of several seeds each: a user's value is the mean over the seeds.

    Args: as `compare`, with a table of ranks for each seed; they may have different numbers of seeds.

    Raises:
        UserError: two tables have other users or targets.
    """
    tables = [*ours, *theirs]
    values_TE = np.stack(
        [rank_metric(metric)(table.ranks[order]) for table, order in zip(tables, _orders(tables), strict=True)]
    )
    ours_E, theirs_E = values_TE[: len(ours)].mean(axis=0), values_TE[len(ours) :].mean(axis=0)
    means_S = resampled_means((ours_E - theirs_E)[:, None], num_resamples, seed)[:, 0]
    return _comparison(ours_E, theirs_E, ours_E - theirs_E, means_S)


def compare_with_values(
    ranks: NDArray[np.int64], metric: str, values: Sequence[float], num_resamples: int = 10_000, seed: int = 0
) -> list[Comparison]:
    """Compare one metric of a system with numbers that are taken as exact, as others' publications have them.

    All are compared on the same resampled users.
    """
    ours_E = rank_metric(metric)(ranks)
    means_S = resampled_means(ours_E[:, None], num_resamples, seed)[:, 0]
    return [_comparison(ours_E, np.full_like(ours_E, value), ours_E - value, means_S - value) for value in values]


def resampled_means(differences_EM: NDArray[np.float64], num_resamples: int, seed: int) -> NDArray[np.float64]:
    """Means of the columns over users drawn with replacement, all columns over the same ones: float64 [S, M]."""
    random, num_users = np.random.default_rng(seed), len(differences_EM)
    means_SM = np.empty((num_resamples, differences_EM.shape[1]))
    for start in range(0, num_resamples, RESAMPLES_AT_ONCE):
        size = min(RESAMPLES_AT_ONCE, num_resamples - start)
        drawn_SE = random.integers(0, num_users, (size, num_users))
        # How often each user was drawn, times the user's differences: a product instead of a gather for each metric.
        rows_SE = drawn_SE + num_users * np.arange(size)[:, None]
        counts_SE = np.bincount(rows_SE.ravel(), minlength=size * num_users).reshape(size, num_users)
        means_SM[start : start + size] = counts_SE @ differences_EM / num_users
    return means_SM


def _orders(tables: Sequence[UserRanks]) -> list[NDArray[np.int64]]:
    """Return the order of each table by users.

    Raises:
        UserError: two tables have other users or targets.
    """
    orders = [np.argsort(table.users, kind="stable") for table in tables]
    for table, order in zip(tables, orders, strict=True):
        same = len(table) == len(tables[0]) and all(
            np.array_equal(getattr(table, name)[order], getattr(tables[0], name)[orders[0]])
            for name in ("users", "targets")
        )
        if not same:
            raise UserError(
                f"ranks: the tables hold {len(tables[0])} and {len(table)} users, or other users or targets; "
                "compare runs on the same split of the same dataset"
            )
    return orders


def _comparison(
    ours_E: NDArray[np.float64],
    theirs_E: NDArray[np.float64],
    differences_E: NDArray[np.float64],
    means_S: NDArray[np.float64],
) -> Comparison:
    seen, spread = differences_E.mean(), differences_E.std(ddof=1) if len(differences_E) > 1 else 0.0
    low, high = np.percentile(means_S, [2.5, 97.5])
    # A mean that differs from the one seen by rounding alone counts as being as far.
    as_far = np.abs(means_S - seen) >= abs(seen) * (1 - 1e-9)
    return Comparison(
        ours=float(ours_E.mean()),
        theirs=float(theirs_E.mean()),
        difference=float(seen),
        low=float(low),
        high=float(high),
        p_value=float((1 + as_far.sum()) / (1 + len(means_S))),
        effect_size=float(seen / spread) if spread > 0 else 0.0,
    )
