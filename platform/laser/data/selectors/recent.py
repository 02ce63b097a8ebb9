"""Selects the users whose last training interaction is the latest."""

import numpy as np

from laser.config.families.selection import RecentUsers
from laser.data.dataset import Dataset
from laser.data.examples import Examples
from laser.errors import UserError


def select(dataset: Dataset, examples: Examples, config: RecentUsers, seed: int) -> Examples:
    """Return the examples of these users. Of users with equal times, those of the lower ids come first.

    Raises:
        UserError: the data has no timestamps.
    """
    users = np.unique(examples.users)
    times = dataset.last_train_times(users)
    if times is None:
        raise UserError(
            f"selection.type: recent; the data {dataset.name} ({dataset.path}) has no timestamps: give it some, or set "
            "selection.type to longest or random"
        )
    latest_first = np.argsort(~times, kind="stable")  # unlike -times, ~times reverses the lowest int64 too
    return examples.of_users(users[latest_first[: config.size(len(users))]])
