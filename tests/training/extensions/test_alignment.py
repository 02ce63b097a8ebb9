"""Tests that alignment draws the M-Former's prefix to the embeddings of an item's text."""

import numpy as np
import torch

from laser.config.compose import with_overrides
from laser.engine.plain import PlainEngine
from laser.training.extensions.alignment import align, text_targets
from laser.training.model import whole_laser
from tiny.laser import CPU


def test_alignment_draws_prefixes_to_the_words_and_moves_the_mformer_alone(experiment, inputs):
    config = with_overrides(experiment, {"training.alignment_epochs": 3, "training.learning_rate": 1e-3})
    laser = whole_laser(config, inputs.artifacts, CPU)
    before = {name: weight.clone() for name, weight in laser.state_dict().items()}
    engine = PlainEngine(laser, config.training, CPU)
    once = with_overrides(config, {"training.alignment_epochs": 1}).training
    first = align(engine, inputs.items, once)["alignment/loss"]
    assert align(engine, inputs.items, config.training)["alignment/loss"] < first
    moved = {name for name, weight in laser.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved == {name for name in laser.trainable_parameters() if name.startswith("mformer.")}
    assert not engine.optimizer.state  # Adam begins afresh


def test_alignment_targets_are_the_centred_means_of_the_words(experiment, inputs):
    laser = whole_laser(experiment, inputs.artifacts, CPU)
    engine = PlainEngine(laser, experiment.training, CPU)
    targets_IH = text_targets(engine, inputs.items, experiment.training)
    table = laser.llm.get_input_embeddings().weight
    numbers = inputs.items.prompts.numbers[0]
    means = []
    for item in range(len(inputs.items)):
        words = np.concatenate([numbers, inputs.items.prompts.item(item)])
        means.append(table[torch.from_numpy(words.astype(np.int64))].mean(dim=0))
    centred_IH = torch.stack(means) - torch.stack(means).mean(dim=0)
    torch.testing.assert_close(targets_IH, torch.nn.functional.normalize(centred_IH, dim=-1), rtol=0, atol=1e-5)
