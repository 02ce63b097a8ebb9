"""Tests what ends a training early and what it warns of, on real epochs where one epoch shows it."""

import hashlib
import json
import logging
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from laser.config.compose import with_overrides
from laser.config.schema import Experiment, TrainingConfig
from laser.engine.guards import WINDOW, LossGuard, memory_advice, report_collapse
from laser.errors import UserError
from laser.training.prepare import make_artifacts
from laser.training.run.checkpoint import latest_checkpoint
from laser.training.train import preflight
from tiny.training import train

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


@pytest.fixture(scope="module")
def experiment(experiment, tmp_path_factory) -> Experiment:
    """Return the shared experiment with a smaller M-Former, small batches and two epochs of stage 1 alone."""
    return with_overrides(
        experiment,
        {
            "output_dir": str(tmp_path_factory.mktemp("runs")),
            "mformer.num_experts": 2, "mformer.num_virtual_tokens": 2, "mformer.num_layers": 1,
            "mformer.hidden_size": 8, "mformer.num_heads": 2,
            "training.stage1_epochs": 2, "training.stage2_epochs": 0, "training.learning_rate": 1e-3,
            "training.batch_size": 2, "training.micro_batch_size": TrainingConfig().micro_batch_size,
            "training.train_users": 60, "training.validation_users": 20,
        },
    )  # fmt: skip


def test_a_training_that_explodes_keeps_its_last_good_checkpoint(experiment, tmp_path):
    """Train the second epoch at a learning rate and a loss scale that make the loss explode."""
    once = with_overrides(experiment, {"training.stage1_epochs": 1})
    train(once, tmp_path, lambda *_: None)
    before = latest_checkpoint(tmp_path / "checkpoints")
    assert before.name == "stage1-epoch0001"
    state = before.trainable()
    (tmp_path / "result.json").unlink()
    # Adam's first step moves every weight by the learning rate, so at infinity the second step has no number left.
    broken = with_overrides(experiment, {"training.learning_rate": 1e38})
    place = tmp_path / "checkpoints" / before.name
    _claim_settings(place, broken)
    with pytest.raises(FloatingPointError, match=r"^stage 1 epoch 2, step \d+ \(users "):
        train(broken, tmp_path, lambda *_: None)
    after = latest_checkpoint(tmp_path / "checkpoints")
    assert after.name == before.name
    assert all(torch.equal(weight, state[name]) for name, weight in after.trainable().items())


def _claim_settings(place, config) -> None:
    """Rewrite a checkpoint so that it names other settings, with matching checksums."""
    state = json.loads((place / "state.json").read_text())
    state["settings"]["training.learning_rate"] = config.training.learning_rate
    (place / "state.json").write_text(json.dumps(state))
    checksums = json.loads((place / "checksums.json").read_text())
    checksums["state.json"] = hashlib.sha256((place / "state.json").read_bytes()).hexdigest()
    (place / "checksums.json").write_text(json.dumps(checksums))


def test_a_disk_without_room_for_the_checkpoints_is_refused_before_anything_starts(experiment, tmp_path, monkeypatch):
    stages = make_artifacts(experiment)
    train(with_overrides(experiment, {"training.stage1_epochs": 0}), tmp_path / "run", lambda *_: None)
    [written] = (tmp_path / "run" / "checkpoints").iterdir()
    item_bytes = (written / "item_embeddings.safetensors").stat().st_size
    assert stages.checkpoint_bytes > item_bytes > 0
    preflight(tmp_path / "new", experiment, stages)
    full = SimpleNamespace(free=3 * stages.checkpoint_bytes - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: full)
    with pytest.raises(UserError, match=rf"^output_dir: {re.escape(str(tmp_path))} has .* MiB free and 3 checkpoints"):
        preflight(tmp_path / "new", experiment, stages)
    preflight(tmp_path / "run", experiment, stages)  # what is there already need not be written
