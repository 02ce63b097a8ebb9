"""A projected prefix: which state makes which token, what is trained, and that placement and padding change nothing."""

import pytest
import torch
from torch import Tensor

from laser.models.projection import Projection
from tiny.laser import LENGTH, RECOMMENDER_WIDTH, WIDTH, alone, batch, build, read, step

MAP = {"projection.output.weight", "projection.output.bias"}


def prefix_of(projection: Projection, states_NC: Tensor) -> Tensor:
    """The prefix of one history, by a loop over its tokens."""
    tokens = []
    for place in range(projection.num_tokens):
        item = len(states_NC) - projection.num_tokens + place
        if item < 0:
            tokens.append(projection.filler)
            continue
        tokens.append(projection.output(projection.hidden(states_NC[item])))
    return torch.stack(tokens)


@pytest.mark.parametrize(("num_tokens", "hidden_size"), [(1, None), (LENGTH, None), (LENGTH, 6), (7, 6)])
def test_the_last_items_have_a_token_each_and_the_filler_has_the_places_before_them(num_tokens, hidden_size):
    torch.manual_seed(0)
    projection, whole = Projection(RECOMMENDER_WIDTH, WIDTH, num_tokens, hidden_size, 0.1), batch()
    prefix_BLH = projection(whole.encoding_BNC, whole.encoding_mask_BN)
    assert prefix_BLH.shape == (12, num_tokens, WIDTH)
    for row in range(12):
        expected_LH = prefix_of(projection, whole.encoding_BNC[row, whole.encoding_mask_BN[row]])
        torch.testing.assert_close(prefix_BLH[row], expected_LH, rtol=0, atol=1e-6)


@pytest.mark.parametrize("implementation", ["packed", "transformers"])
@pytest.mark.parametrize("position", ["before", "after"])
def test_map_filler_and_suffix_are_trained_and_a_history_reads_the_same_alone(tiny_llm, implementation, position):
    overrides = {"llm__implementation": implementation, "bituning__prefix_position": position}
    laser, config = build(tiny_llm, bituning__prefix="projection", **overrides)
    assert laser.num_added_tokens == LENGTH + 1 and laser.num_experts == 0
    with torch.no_grad():
        together_BH = read(laser, batch()).representation_BH
        for row in range(12):
            alone_BH = read(laser, alone(batch(), row)).representation_BH
            torch.testing.assert_close(alone_BH[0], together_BH[row], rtol=0, atol=1e-5)
    result, moved = step(laser, config)
    assert moved == set(laser.trainable_parameters()) == MAP | {"projection.filler", "bituning.suffix"}
    assert result.load_balance == 0 and len(result.expert_counts_K) == 0


def test_a_single_token_has_no_filler_and_a_hidden_layer_its_width(tiny_llm):
    laser, config = build(tiny_llm, bituning__prefix="projection", mformer__num_virtual_tokens=1)
    assert set(laser.trainable_parameters()) == MAP | {"bituning.suffix"} == step(laser, config)[1]
    deep, _ = build(tiny_llm, bituning__prefix="projection", bituning__projection_width=5)
    sizes = [weight.numel() for weight in deep.projection.parameters()]
    assert sum(sizes) == (RECOMMENDER_WIDTH + 1) * 5 + (5 + 1) * WIDTH + WIDTH


def test_from_one_token_the_prefix_starts_as_that_of_all_users(tiny_llm):
    laser, _ = build(tiny_llm, bituning__prefix="projection", bituning__projection_width=5)
    token_H, whole = torch.randn(WIDTH), batch()
    laser.start_virtual_tokens(token_H)
    prefix_BLH = laser.projection(whole.encoding_BNC, whole.encoding_mask_BN)
    assert torch.equal(prefix_BLH, token_H.expand(12, LENGTH, -1)) and torch.equal(laser.bituning.suffix, token_H)
