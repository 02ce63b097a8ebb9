"""Recommenders come back from disk with the same bits, frozen."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from laser.config.families.recommenders import Bert4RecConfig, ItemKNNConfig, SASRecConfig, StackConfig
from laser.errors import UserError
from laser.families.stack import Stack
from laser.recommenders.registry import build_recommender
from laser.recommenders.storage import content_hash, load_recommender, save_recommender

CONFIGS = [Bert4RecConfig(hidden_size=16, mask_probability=0.4), SASRecConfig(hidden_size=16, num_layers=1)]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.type)
def test_a_recommender_comes_back_with_the_same_bits_and_frozen(config, tmp_path: Path):
    model = build_recommender(config, 12)
    save_recommender(model, config, 12, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "recommender.json"]

    loaded = load_recommender(tmp_path)
    assert type(loaded) is type(model)
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())
    item_ids, mask = torch.tensor([[3, 1, 2], [7, 0, 0]]), torch.tensor([[True, True, True], [True, False, False]])
    model.eval()
    assert torch.equal(loaded.scores(item_ids, mask), model.scores(item_ids, mask))
    assert torch.equal(loaded.encode(item_ids, mask), model.encode(item_ids, mask))


def test_a_directory_without_a_recommender_or_of_another_layout_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"recommender\.json: no such file"):
        load_recommender(tmp_path)
    save_recommender(build_recommender(CONFIGS[1], 12), CONFIGS[1], 12, tmp_path)
    description = json.loads((tmp_path / "recommender.json").read_text())
    (tmp_path / "recommender.json").write_text(json.dumps({**description, "schema_version": 0}))
    with pytest.raises(UserError, match=r"recommender\.json: layout 0"):
        load_recommender(tmp_path)


def test_a_stack_is_its_parts_side_by_side_and_comes_back_with_its_statistics(tmp_path: Path):
    config = StackConfig(
        fitted=ItemKNNConfig(hidden_size=6), trained=SASRecConfig(hidden_size=8, num_layers=1), trained_weight=0.3
    )
    sequences = [np.array([0, 1, 2], np.int32), np.array([2, 3], np.int32), np.array([1, 3, 0], np.int32)]
    model = build_recommender(config, 5)
    assert isinstance(model, Stack)
    model.fit(sequences)
    save_recommender(model.eval(), config, 5, tmp_path)
    loaded = load_recommender(tmp_path)
    assert isinstance(loaded, Stack) and loaded.hidden_size == 14 and loaded.blocks == (6, 8)
    item_ids, mask = torch.tensor([[3, 1, 2], [0, 4, 4]]), torch.tensor([[True, True, True], [True, False, False]])
    fitted, trained = loaded.fitted, loaded.trained
    assert torch.equal(loaded.encode(item_ids, mask), model.encode(item_ids, mask))
    assert torch.equal(
        loaded.encode(item_ids, mask), torch.cat([fitted.encode(item_ids, mask), trained.encode(item_ids, mask)], -1)
    )
    expected = fitted.scores(item_ids, mask) + 0.3 * trained.scores(item_ids, mask).log_softmax(-1)
    torch.testing.assert_close(loaded.scores(item_ids, mask), expected)
    assert loaded.item_embeddings().shape == (5, 14)
    own = [sequences[0], sequences[2]]
    without = loaded.encode_without(item_ids, mask, own)
    assert torch.equal(without[..., :6], fitted.encode_without(item_ids, mask, own))
    assert torch.equal(without[..., 6:], trained.encode(item_ids, mask))
    assert not torch.equal(without[..., :6], loaded.encode(item_ids, mask)[..., :6])


def test_equal_weights_under_other_settings_are_another_content(tmp_path: Path):
    config = ItemKNNConfig(hidden_size=4)
    model = build_recommender(config, 12)
    hashes = []
    for number, settings in enumerate((config, config, config.model_copy(update={"max_history": 3}))):
        place = tmp_path / str(number)
        place.mkdir()
        save_recommender(model, settings, 12, place)
        hashes.append(content_hash(place))
    assert hashes[0] == hashes[1] != hashes[2]  # encodings of shorter histories are others
