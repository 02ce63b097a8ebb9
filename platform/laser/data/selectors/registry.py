"""Finds the selector that `selection.type` names."""

import importlib
from typing import cast, get_args

from laser.config.families.selection import ScoredUsers, SelectionConfig
from laser.data.dataset import Dataset
from laser.data.examples import Examples
from laser.data.selectors.base import Selector

SECTIONS = {
    section.model_fields["type"].default: section
    for section in get_args(get_args(SelectionConfig)[0])
    if not issubclass(section, ScoredUsers)
}
"""The settings of each selector that has a module here, by its type; `laser.scoring` has the others."""


def selector_module(name: str) -> Selector:
    """Import the module of a selector."""
    return cast(Selector, importlib.import_module(f"laser.data.selectors.{name}"))


def select(dataset: Dataset, examples: Examples, config: SelectionConfig, seed: int) -> Examples:
    """Select the training users that `config` asks for and return their examples, in the original order.

    Raises:
        UserError: the dataset lacks what the selector needs.
    """
    return selector_module(config.type).select(dataset, examples, config, seed)
