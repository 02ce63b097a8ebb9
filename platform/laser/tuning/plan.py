"""Which trials a search consists of."""

import logging
import random
from collections.abc import Mapping
from math import exp, log
from typing import Any

from laser.config.schema import SearchConfig
from laser.tuning.space import Choice, Domain, LogUniform, RandInt, Uniform, grid

logger = logging.getLogger(__name__)


def planned_trials(space: Mapping[str, Domain], search: SearchConfig) -> list[dict[str, Any]] | None:
    """Return the overrides of all trials of a grid or random search; None if a sampler decides during the search.

    Random trials differ from each other. The first n are the same for any larger `num_samples`.
    """
    if search.algorithm == "grid":
        return grid(space)
    if search.algorithm == "optuna":
        return None
    trials = sampled_trials(space, search.num_samples, search.seed)
    if len(trials) < search.num_samples:
        logger.warning(
            "search.num_samples: the space gave only %d different trials of %d", len(trials), search.num_samples
        )
    return trials


def sampled_trials(space: Mapping[str, Domain], num_samples: int = 64, seed: int = 0) -> list[dict[str, Any]]:
    """Draw trials that differ from each other; fewer where the space holds fewer."""
    generator = random.Random(seed)
    trials: list[dict[str, Any]] = []
    for _ in range(100 * num_samples):
        sample = {key: draw(domain, generator) for key, domain in space.items()}
        if sample not in trials:
            trials.append(sample)
        if len(trials) == num_samples:
            break
    return trials


def draw(domain: Domain, generator: random.Random) -> Any:
    """Draw one value of a domain."""
    match domain:
        case Choice():
            return generator.choice(domain.values)
        case Uniform():
            return generator.uniform(domain.low, domain.high)
        case LogUniform():
            return exp(generator.uniform(log(domain.low), log(domain.high)))
        case RandInt():
            return generator.randrange(domain.low, domain.high)
