"""Tests how a training that cannot go on ends: by its losses, or for lack of room."""

import hashlib
import json
import re
import shutil
from types import SimpleNamespace

import pytest
import torch

from laser.config.compose import with_overrides
from laser.config.schema import Experiment, TrainingConfig
from laser.errors import UserError
from laser.training.prepare import make_artifacts
from laser.training.run.checkpoint import latest_checkpoint
from laser.training.train import preflight
from tiny.training import train


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
    unfinished = make_artifacts(once).recommender / ".result.json.1.writing"  # by a process that tests the recommender
    unfinished.touch()
    train(once, tmp_path, lambda *_: None)
    unfinished.unlink()
    assert not (tmp_path / "recommender" / unfinished.name).exists()
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
