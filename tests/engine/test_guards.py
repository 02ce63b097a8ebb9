"""Tests what ends a training early and what it warns of."""

import logging
import re

import numpy as np
import pytest
import torch

from laser.config.schema import TrainingConfig
from laser.engine.guards import WINDOW, LossGuard, memory_advice, report_collapse

USERS = np.arange(100, 104, dtype=np.int32)


def feed(guard: LossGuard, losses: list[float]) -> None:
    for number, loss in enumerate(losses):
        guard.check(number, loss, 1.0, USERS)


def test_a_loss_that_explodes_names_epoch_step_users_and_remedy():
    guard = LossGuard("stage 1 epoch 2", num_items=1000, max_growth=3.0)
    feed(guard, [7.0] * WINDOW)
    with pytest.raises(FloatingPointError) as error:
        feed(guard, [50.0] * WINDOW)
    message = str(error.value)
    assert message.startswith("stage 1 epoch 2, step 7 (users 100, 101, 102, 103): the loss explodes: ")
    assert "training.learning_rate" in message and "training.max_loss_growth" in message


@pytest.mark.parametrize(
    "losses",
    [
        [7.0] * WINDOW + [90.0] + [7.0] * WINDOW,  # one hard batch
        [1.0] * WINDOW + [6.0] * WINDOW,  # below a uniform guess: no explosion, however small it was
        [30.0] * WINDOW + [60.0] * WINDOW,  # a small temperature starts high
    ],
)
def test_a_hard_batch_a_small_loss_and_a_high_start_are_no_explosion(losses):
    feed(LossGuard("epoch", num_items=1000, max_growth=3.0), losses)


def test_growth_is_not_looked_at_with_0_and_infinity_always():
    guard = LossGuard("epoch", num_items=1000, max_growth=0.0)
    feed(guard, [1.0] * WINDOW + [1e9] * WINDOW)
    with pytest.raises(FloatingPointError, match=re.escape("epoch, step 1 (users 100, 101, 102, 103): loss nan")):
        feed(guard, [float("nan")])
    many = np.arange(12, dtype=np.int32)
    with pytest.raises(
        FloatingPointError, match=r"users 0, 1, 2, 3, 4, 5, 6, 7 and 4 more\): loss 2\.0, load balance inf"
    ):
        guard.check(0, 2.0, float("inf"), many)


def test_a_collapsed_router_is_reported_once_an_epoch(caplog):
    with caplog.at_level(logging.WARNING):
        report_collapse("stage 1 epoch 1", {"loss": 9.0, "expert_load/0": 0.03, "expert_load/1": 0.97})
        report_collapse("stage 1 epoch 2", {"expert_load/0": 0.4, "expert_load/1": 0.6})
        report_collapse("stage 1 epoch 3", {"expert_load/0": 1.0})  # K = 1 has nothing to choose
    [record] = caplog.records
    assert "stage 1 epoch 1: the router has collapsed: expert 1" in record.getMessage()
    assert "training.load_balance_weight" in record.getMessage()


def test_memory_that_is_not_there_names_the_settings_to_lower():
    training = TrainingConfig(micro_batch_size=8)
    with pytest.raises(MemoryError, match=r"training\.micro_batch_size \(now 8\)") as error, memory_advice(training):
        torch.empty(2**60, dtype=torch.uint8)  # the CPU allocator's own error
    assert "training.gradient_checkpointing=true" in str(error.value)
    with pytest.raises(MemoryError, match=r"training\.inference_batch_tokens"), memory_advice(training):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    with pytest.raises(RuntimeError, match="shapes") as other, memory_advice(training):
        raise RuntimeError("shapes differ")
    assert not isinstance(other.value, MemoryError)
