"""Selects a random sample of the training users."""

import numpy as np

from laser.config.families.selection import RandomUsers
from laser.data.dataset import Dataset
from laser.data.examples import Examples


def select(dataset: Dataset, examples: Examples, config: RandomUsers, seed: int) -> Examples:
    """Return the examples of a sample without replacement: the same users as of `training.train_users`."""
    return examples.sample_users(config.size(len(np.unique(examples.users))), seed)
