"""Says who was chosen: how many users, how long their sequences are, and what their scores have in common.

Shape suffix: U users.
"""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from laser.data.dataset import Dataset
from laser.data.examples import Examples
from laser.scoring.coverage import PRUNED, Indices
from laser.scoring.scored import read_facts, read_selection


def describe_selection(dataset: Dataset, chosen: Examples, everyone: Examples, users: Path | None) -> dict[str, Any]:
    """Return what `jobs/select_users.py` says of the users that an experiment trains on.

    Args:
        dataset: the experiment's data.
        chosen: training examples of the chosen users.
        everyone: training examples of those that they were chosen among.
        users: the file of users that were chosen by scores; None without scores.
    """
    lengths = {
        name: dataset.num_train_items[np.unique(part.users)] for name, part in (("chosen", chosen), ("all", everyone))
    }
    figures: dict[str, Any] = {
        "num_users": {name: len(part) for name, part in lengths.items()},
        "mean_train_items": {name: round(float(part.mean()), 2) for name, part in lengths.items()},
        "users": None if users is None else str(users),
    }
    if users is None:
        return figures
    table = read_selection(users)
    groups = group_sizes(table.column("group").to_numpy())
    return {**figures, **read_facts(users), "groups": groups, "spearman": rank_correlations(table, lengths["all"])}


def group_sizes(groups_U: Indices) -> dict[str, int]:
    """Return how many groups have users, the smallest and largest of these, and how many users are left out before."""
    sizes = np.unique(groups_U[groups_U != PRUNED], return_counts=True)[1]
    pruned = int((groups_U == PRUNED).sum())
    return {"filled": len(sizes), "smallest": int(sizes.min()), "largest": int(sizes.max()), "pruned": pruned}


def rank_correlations(table: pa.Table, lengths_U: Indices) -> dict[str, float]:
    """Return Spearman's correlations of the columns of a selection with one another and with the users' lengths."""
    from scipy.stats import spearmanr  # it takes a second to import

    columns = {name: table.column(name).to_numpy() for name in ("influence", "effort", "score")}
    columns = {name: values for name, values in columns.items() if not np.isnan(values).any()} | {"length": lengths_U}
    return {f"{a}, {b}": float(spearmanr(columns[a], columns[b]).statistic) for a, b in combinations(columns, 2)}
