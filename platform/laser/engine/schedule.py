"""Schedules the learning rate: a linear warm-up in each stage, then a constant or a cosine."""

import math
from dataclasses import dataclass

from laser.config.schema import TrainingConfig


@dataclass(frozen=True)
class Schedule:
    """Gives the factor on the learning rates at each step of one epoch."""

    config: TrainingConfig
    steps_before: int
    """Optimizer steps of all stages before this epoch."""
    stage_steps_before: int
    """Steps of the epoch's own stage before this epoch. Each stage resets Adam's moments, so each has its warm-up."""
    num_steps: int
    """Optimizer steps of the whole training."""

    def factor(self, step: int) -> float:
        """Return the factor on the learning rates at a step of the epoch; steps count from 0."""
        config, factor = self.config, 1.0
        if config.schedule == "cosine":
            done, left = self.steps_before + step - config.warmup_steps, self.num_steps - 1 - config.warmup_steps
            progress = min(1.0, max(0.0, done / max(1, left)))
            lowest = config.min_learning_rate_factor
            factor = lowest + (1.0 - lowest) * 0.5 * (1.0 + math.cos(math.pi * progress))
        if config.warmup_steps:
            factor *= min(1.0, (self.stage_steps_before + step + 1) / config.warmup_steps)
        return factor
