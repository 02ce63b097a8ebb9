"""Tests that a checkpoint is there whole or not at all, and that reading detects an altered one."""

from dataclasses import replace

import pytest
import torch

from laser.errors import UserError
from laser.training.run.checkpoint import (
    LLM_CONTENT,
    TrainingState,
    check_same_settings,
    discard_checkpoints,
    latest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)


def state(stage: int, stage_epoch: int, best: str | None = None) -> TrainingState:
    return TrainingState(stage, stage_epoch, stage_epoch, best, 0.5, {"training.seed": 3}, [{"epoch": 1.0}], 2.5, 7)


def write(directory, stage, stage_epoch):
    weights = {"suffix": torch.arange(3.0) + stage_epoch}
    moments = {"suffix.exp_avg": torch.ones(3), "suffix.exp_avg_sq": torch.ones(3), "step": torch.tensor([4.0])}
    return write_checkpoint(directory, state(stage, stage_epoch), weights, moments, torch.eye(2))


def test_what_is_written_is_read_back(tmp_path):
    write(tmp_path, 1, 2)
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.state == state(1, 2)
    assert checkpoint.trainable()["suffix"].tolist() == [2.0, 3.0, 4.0]
    assert checkpoint.optimizer()["step"].tolist() == [4.0]
    assert checkpoint.item_embeddings().tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_the_last_in_training_order_is_the_latest(tmp_path):
    for stage, epoch in ((1, 9), (1, 10), (2, 1), (0, 0)):
        write(tmp_path, stage, epoch)
    latest = latest_checkpoint(tmp_path)
    assert latest is not None
    assert latest.name == "stage2-epoch0001"


@pytest.mark.parametrize("damage", ["truncate", "alter", "remove", "no checksums"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path, damage, caplog):
    write(tmp_path, 1, 1)
    broken = write(tmp_path, 1, 2).path
    victim = broken / ("checksums.json" if damage == "no checksums" else "trainable.safetensors")
    content = victim.read_bytes()
    if damage == "truncate":
        victim.write_bytes(content[:-4])
    elif damage == "alter":
        victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        victim.unlink()
    with pytest.raises(UserError, match=victim.name):
        read_checkpoint(broken)
    latest = latest_checkpoint(tmp_path)
    assert latest is not None
    assert latest.name == "stage1-epoch0001"
    assert str(victim) in caplog.text


def test_a_write_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="suffix"):
        write_checkpoint(tmp_path, state(1, 1), {"suffix": None}, {}, torch.eye(2))  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


def test_only_the_last_and_the_best_are_kept(tmp_path):
    for epoch in (1, 2, 3):
        write(tmp_path, 1, epoch)
    (tmp_path / ".stage1-epoch0004.12.writing").mkdir()
    discard_checkpoints(tmp_path, {"stage1-epoch0003", "stage1-epoch0001"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stage1-epoch0001", "stage1-epoch0003"]


def test_other_settings_are_refused_by_name():
    with pytest.raises(UserError, match="training.seed: 4 differs from 3"):
        check_same_settings(state(1, 1), {"training.seed": 4})


def test_another_llm_in_the_same_place_is_refused_and_an_older_checkpoint_names_none():
    trained = replace(state(1, 1), settings={"training.seed": 3, LLM_CONTENT: "folder:1"})
    check_same_settings(trained, {"training.seed": 3, LLM_CONTENT: "folder:1"})
    check_same_settings(trained, {"training.seed": 3, LLM_CONTENT: "pypi:llm==1"})  # moved; it may be the same
    check_same_settings(state(1, 1), {"training.seed": 3, LLM_CONTENT: "folder:2"})
    with pytest.raises(
        UserError, match=r"llm\.source: holds folder:2, and the run to resume was trained on folder:1; "
    ):
        check_same_settings(trained, {"training.seed": 3, LLM_CONTENT: "folder:2"})
