"""The learning rate's factor over the steps of a training: linear warm-up in each stage, then constant or cosine."""

import math
from dataclasses import dataclass

from laser.config.schema import TrainingConfig


@dataclass(frozen=True)
class Schedule:
    """The factors of one epoch's steps."""

    config: TrainingConfig
    steps_before: int
    """Optimizer steps of all stages before this epoch."""
    stage_steps_before: int
    """Those of them that belong to the epoch's own stage: Adam's moments begin with the stage, and so does warm-up."""
    num_steps: int
    """Optimizer steps of the whole training."""

    def factor(self, step: int) -> float:
        """What the learning rates are multiplied with at a step of the epoch, counted from 0."""
        config, factor = self.config, 1.0
        if config.schedule == "cosine":
            done, left = self.steps_before + step - config.warmup_steps, self.num_steps - 1 - config.warmup_steps
            progress = min(1.0, max(0.0, done / max(1, left)))
            lowest = config.min_learning_rate_factor
            factor = lowest + (1.0 - lowest) * 0.5 * (1.0 + math.cos(math.pi * progress))
        if config.warmup_steps:
            factor *= min(1.0, (self.stage_steps_before + step + 1) / config.warmup_steps)
        return factor
