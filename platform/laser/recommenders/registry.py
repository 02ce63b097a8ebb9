"""Finds the module of a recommender's family, and builds a model with it.

The registry is the union `RecommenderConfig` of `laser.config.families.recommenders`: a family's module has the name of
its section's `type`, and is imported when a model of it is built. It has a function `build(config, num_items)`.
"""

import importlib
from typing import cast

from laser.config.families.recommenders import FamilySection, NoRecommenderConfig
from laser.errors import UserError
from laser.recommenders.base import SequentialRecommender

FAMILIES_PACKAGE = "laser.families"


def build_recommender(config: FamilySection, num_items: int) -> SequentialRecommender:
    """Build an untrained model in training mode.

    Weights are drawn from torch's global generator, which the caller seeds. A model that reads text
    (`laser.recommenders.text.ReadsText`) still needs the features of its items.

    Args:
        config: the family and its settings.
        num_items: I, the size of the catalogue.

    Raises:
        UserError: `recommender.type` is none, or the family does not take so many items.
    """
    if isinstance(config, NoRecommenderConfig):
        raise UserError('recommender.type: "none"; there is nothing to train: name a recommender')
    module = importlib.import_module(f"{FAMILIES_PACKAGE}.{config.type}")
    return cast(SequentialRecommender, module.build(config, num_items))
