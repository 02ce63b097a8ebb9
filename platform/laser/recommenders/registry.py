"""Finds the module of a recommender's family, and builds a model with it.

The registry is the union `RecommenderConfig` of `laser.config.families.recommenders`: a family's module has the name of
its section's `type`, and is imported when a model of it is built. It has a function `build(config, num_items)`. Modules
of families that read the items' texts are in the folder `text`.
"""

import importlib
import os
from typing import cast

from laser.config.families.recommenders import FamilySection, NoRecommenderConfig, OwnConfig, TextSection
from laser.errors import UserError
from laser.recommenders.base import FittedRecommender, SequentialRecommender, TrainedRecommender

FAMILIES_PACKAGE = "laser.families"
ALLOW_CODE = "LASER_ALLOW_CODE"
"""The environment variable with the own recommenders that may run, as <module>:<class>, joined by commas. No setting
stands for it, because stored settings come with what others have trained."""


def build_recommender(config: FamilySection, num_items: int) -> SequentialRecommender:
    """Build an untrained model in training mode.

    Weights are drawn from torch's global generator, which the caller seeds. A model that reads text
    (`laser.recommenders.text.ReadsText`) still needs the features of its items.

    Args:
        config: the family and its settings.
        num_items: I, the size of the catalogue.

    Raises:
        UserError: `recommender.type` is none, the family does not take so many items, or it is code of the user's own
            that is not allowed or not there.
    """
    if isinstance(config, NoRecommenderConfig):
        raise UserError('recommender.type: "none"; there is nothing to train: name a recommender')
    if isinstance(config, OwnConfig):
        return _own_recommender(config, num_items)
    folder = ".text" if isinstance(config, TextSection) else ""
    module = importlib.import_module(f"{FAMILIES_PACKAGE}{folder}.{config.type}")
    return cast(SequentialRecommender, module.build(config, num_items))


def _own_recommender(config: OwnConfig, num_items: int) -> SequentialRecommender:
    code = config.code
    if code is None:
        raise UserError("recommender.type: own; name your class: recommender.type=<module>:<class>")
    if code not in os.environ.get(ALLOW_CODE, "").split(","):
        raise UserError(
            f"recommender.type: {code} is code that would run here; if you trust it, set {ALLOW_CODE}={code}"
        )
    module, _, name = code.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"recommender.type: {code}: {error}; put its folder on PYTHONPATH") from error
    if not (isinstance(found, type) and issubclass(found, TrainedRecommender | FittedRecommender)):
        raise UserError(f"recommender.type: {code} is no TrainedRecommender or FittedRecommender; see docs/recipes")
    return found(num_items, **config.sizes)
