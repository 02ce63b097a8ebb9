"""Tests the learning rate's factor over steps and stages."""

import pytest

from laser.config.schema import TrainingConfig
from laser.engine.schedule import Schedule


def test_the_schedule_warms_up_in_each_stage_and_falls_along_a_cosine():
    config = TrainingConfig(schedule="cosine", warmup_steps=2, min_learning_rate_factor=0.1)
    factors = [Schedule(config, 0, 0, 13).factor(step) for step in range(13)]
    assert factors[0] == 0.5
    assert factors[1:3] == [1.0, 1.0]
    assert factors[7] == pytest.approx(0.55)  # half way from step 2 to step 12
    assert factors[12] == pytest.approx(0.1)
    second_epoch, second_stage = Schedule(config, 5, 5, 13), Schedule(config, 5, 0, 13)
    assert second_epoch.factor(0) == factors[5]
    assert second_stage.factor(0) == 0.5 * factors[5]
    constant = TrainingConfig(warmup_steps=2)
    assert [Schedule(constant, 4, 4, 8).factor(step) for step in range(2)] == [1.0, 1.0]
