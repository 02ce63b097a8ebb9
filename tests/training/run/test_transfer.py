"""Tests runs that start from the weights of another run."""

import pytest
import torch

from laser.config.compose import with_overrides
from laser.errors import UserError
from laser.training.prepare import make_artifacts
from laser.training.run.checkpoint import latest_checkpoint, read_checkpoint
from laser.training.run.transfer import check_start
from tiny.training import train


def test_zero_shot_evaluates_the_starting_weights_and_others_do_not_fit(experiment, inputs, tmp_path):
    source = train(experiment, tmp_path / "source", lambda metrics, epoch: None)
    zero_shot = with_overrides(
        experiment,
        {
            "data.k_core": 50,
            "training.start_from": str(tmp_path / "source"),
            "training.stage1_epochs": 0,
            "training.stage2_epochs": 0,
            "training.test": True,
        },
    )
    outcome = train(zero_shot, tmp_path / "target", lambda metrics, epoch: None)
    assert (outcome.selected, outcome.epochs) == ("stage0-epoch0000", 0)
    assert outcome.val == outcome.untrained_val
    assert outcome.test is not None and outcome.test["mrr"] > 0
    kept = read_checkpoint(tmp_path / "source" / "checkpoints" / source.selected).trainable()
    for name, weight in latest_checkpoint(tmp_path / "target" / "checkpoints").trainable().items():
        assert torch.equal(weight, kept[name]), name

    tuned = with_overrides(zero_shot, {"finetuning.type": "lora"})  # what it adds begins as it does without a start
    train(tuned, tmp_path / "tuned", lambda metrics, epoch: None)
    weights = latest_checkpoint(tmp_path / "tuned" / "checkpoints").trainable()
    assert all(torch.equal(weights[name], weight) for name, weight in kept.items())
    assert {name.partition(".")[0] for name in weights.keys() - kept.keys()} == {"llm"}

    other = with_overrides(zero_shot, {"mformer.num_experts": 2})
    with pytest.raises(
        UserError, match=r"start_from: weight mformer\.query_tokens is \(3, 4, 32\) in .* and is \(2, 4, 32\)"
    ):
        check_start(other, make_artifacts(other))
    without = with_overrides(zero_shot, {"bituning.prefix": "free"})
    with pytest.raises(UserError, match=r"start_from: weight bituning\.prefix is missing in .* and is \(4, 32\) here"):
        check_start(without, make_artifacts(without))
    nowhere = with_overrides(zero_shot, {"training.start_from": str(tmp_path)})
    with pytest.raises(UserError, match=r"training\.start_from: .* is neither a checkpoint nor a run with one; name"):
        check_start(nowhere, make_artifacts(nowhere))
