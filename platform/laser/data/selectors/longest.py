"""Selects the users with the longest training sequences."""

import numpy as np

from laser.config.families.selection import LongestUsers
from laser.data.dataset import Dataset
from laser.data.examples import Examples


def select(dataset: Dataset, examples: Examples, config: LongestUsers, seed: int) -> Examples:
    """Return the examples of these users. Of users with equal lengths, those of the lower ids come first."""
    users = np.unique(examples.users)
    longest_first = np.argsort(-dataset.num_train_items[users], kind="stable")
    return examples.of_users(users[longest_first[: config.size(len(users))]])
