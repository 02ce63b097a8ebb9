"""Chooses the histories to train, validate and test on, from the dataset and the settings alone."""

import numpy as np
from numpy.typing import NDArray

from laser.config.families.selection import ScoredUsers
from laser.config.schema import Experiment
from laser.data.dataset import Dataset
from laser.data.examples import Examples
from laser.data.selectors.registry import select


def select_examples(
    dataset: Dataset, config: Experiment, users: NDArray[np.int32] | None = None
) -> dict[str, Examples]:
    """Return the examples of each split, with their histories cut to `prompt.max_history_items`.

    Args:
        dataset: the experiment's data.
        config: the experiment.
        users: those that were chosen by scores (`laser.training.selection`). Without them, as many random ones stand
            for them, so that a forecast needs no scores.

    Returns:
        The splits `train`, `val` and `test`. `items` holds each item as a history of one item, in the order of internal
        ids. With a warm start of the head, `prefixes` holds every prefix of the training sequences of `train`'s users.
    """
    training = config.training
    train = dataset.examples("train", training.every_prefix, training.prefixes_per_user)
    train = train.share_of_users(training.train_fraction, training.seed)
    train = train.sample_users(training.train_users, training.seed)
    if users is not None:
        train = train.of_users(users)
    elif isinstance(config.selection, ScoredUsers):
        train = train.sample_users(config.selection.size(len(np.unique(train.users))), training.seed)
    else:
        train = select(dataset, train, config.selection, training.seed)
    selected = {"train": train}
    if config.warms_up_head:
        selected["prefixes"] = dataset.examples("train", True, training.prefixes_per_user).of_users(train.users)
    selected["val"] = dataset.examples("val").sample_users(training.validation_users, training.seed)
    selected["test"] = dataset.examples("test")
    selected["items"] = Examples.of_items(dataset.num_items)
    return {split: examples.last(config.prompt.max_history_items) for split, examples in selected.items()}
