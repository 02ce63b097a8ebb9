"""Tests the head's score by hand, and which of its parts get a gradient."""

import pytest
import torch
import torch.nn.functional as F

from laser.config.schema import HeadConfig
from laser.models.head import COUNTED_WEIGHT, ITEMS, USERS, Head, with_counted_weight
from laser.models.laser import build_head


def head(**changes: object) -> Head:
    torch.manual_seed(0)
    config = {"width": 4, "shared": False, "collaborative": True, "history_bias": True, "text_scale": 0.5, **changes}
    built = build_head(HeadConfig.model_validate(config), llm_width=6, recommender_width=3)
    assert built is not None
    return built


def test_without_settings_there_is_no_head():
    assert build_head(HeadConfig(), 6, 3) is None
    assert build_head(HeadConfig(shared=False, dropout=0.5), 6, 3) is None  # of a map that is not there
    assert build_head(HeadConfig(history_bias=True), 6, 3) is not None


def test_the_score_by_hand():
    model = head()
    outputs_UH, outputs_IH, states_UC, vectors_IC = (torch.randn(n, w) for n, w in ((5, 6), (7, 6), (5, 3), (7, 3)))
    model.standardise(outputs_UH, USERS)
    with torch.no_grad():
        model.state_weight_C.copy_(torch.tensor([0.5, 0.0, -1.0]))
        model.state_scale.fill_(0.3)
        model.maps[ITEMS].weight.mul_(-1)
    users, items = model(outputs_UH, USERS, states_UC), model(outputs_IH, ITEMS, vectors_IC)
    standard_UH = (outputs_UH - outputs_UH.mean(dim=0)) / outputs_UH.std(dim=0)
    text_UI = F.cosine_similarity(
        (standard_UH @ model.maps[USERS].weight.T)[:, None], (outputs_IH @ model.maps[ITEMS].weight.T)[None], dim=-1
    )
    states_UI = (states_UC * torch.tensor([1.5, 1.0, 0.0])) @ vectors_IC.T
    expected_UI = 0.5 * text_UI + states_UI * torch.tensor(0.3).exp()
    torch.testing.assert_close(users.vector_BD @ items.vector_BD.T, expected_UI)
    assert model.width == users.vector_BD.shape[1] == 7
    assert users.history_bias.tolist() == [0.0]


def test_two_maps_are_equal_at_first_and_one_map_is_one():
    apart, shared = head(), head(shared=True)
    assert torch.equal(apart.maps[USERS].weight, apart.maps[ITEMS].weight)
    assert apart.maps[USERS].weight is not apart.maps[ITEMS].weight
    assert torch.equal(shared.maps[USERS].weight, apart.maps[USERS].weight)
    output_BH, none_BC = torch.randn(2, 6), torch.randn(2, 0)
    shared, apart = head(shared=True, collaborative=False), head(collaborative=False)
    with torch.no_grad():
        shared.maps[USERS].weight.mul_(-1)
        apart.maps[USERS].weight.mul_(-1)
    for model, is_one in ((shared, True), (apart, False)):
        model.text_scale.data.fill_(1.0)
        sides = [model(output_BH, side, none_BC).vector_BD for side in (USERS, ITEMS)]
        assert torch.equal(*sides) is is_one


@pytest.mark.parametrize("shared", [True, False])
def test_every_weight_has_one_name(shared):
    model = head(shared=shared)
    named = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    assert set(model.state_dict()) == named


@pytest.mark.parametrize("width", [None, 4])
def test_what_is_not_asked_for_is_not_there(width):
    model = head(width=width, collaborative=False, history_bias=False)
    found = model(torch.randn(2, 6), USERS, torch.randn(2, 3))
    assert found.vector_BD.shape == (2, width or 6) and found.history_bias is None
    assert {name for name, _ in model.named_parameters()} == {"text_scale"} | (
        {"maps.0.weight", "maps.1.weight"} if width else set()
    )


def test_a_single_output_is_centred_without_a_std():
    model = head()
    model.standardise(torch.full((1, 6), 3.0), USERS)
    assert model.center_SH[USERS].tolist() == [3.0] * 6 and model.deviation_SH[USERS].tolist() == [1.0] * 6


def test_text_features_are_all_that_the_maps_read_at_first():
    model = head(width=5, text_width=4, collaborative=False, text_scale=1.0)
    output_BH, state_BC = torch.randn(3, 6), torch.randn(3, 3 + 4)
    assert model.maps[USERS].weight.shape == (5, 4 + 6)
    found_BD = model(output_BH, USERS, state_BC).vector_BD
    with torch.no_grad():
        model.maps[USERS].weight[4:] = 0  # beyond the features, the map reads the outputs
    alone_BD = model(output_BH, USERS, state_BC).vector_BD
    torch.testing.assert_close(alone_BD, F.pad(F.normalize(state_BC[:, 3:], dim=-1), (0, 1)))
    assert not torch.allclose(found_BD, alone_BD)
    alone_BD.square().sum().backward()
    assert model.maps[USERS].weight.grad[:, 4:].abs().sum() > 0  # outputs count as soon as training moves them


def test_a_product_that_joins_later_is_in_no_vector_until_it_has_weights():
    model = head(joins="after")
    user_BC, item_BC, output_BH = torch.randn(2, 3), torch.randn(2, 3), torch.randn(2, 6)
    before = model(output_BH, USERS, user_BC).vector_BD, model(output_BH, ITEMS, item_BC).vector_BD
    assert model.width == before[0].shape[1] == before[1].shape[1] == 4
    model.set_weights([1, 2], [2.0, 0.5, 3.0], -1.5)
    model.eval()
    after = model(output_BH, USERS, user_BC), model(output_BH, ITEMS, item_BC)
    assert model.width == after[0].vector_BD.shape[1] == 7 and after[0].history_bias.tolist() == [-1.5]
    expected_BI = 3 / 0.5 * before[0] @ before[1].T + user_BC * torch.tensor([2.0, 0.5, 0.5]) @ item_BC.T
    torch.testing.assert_close(after[0].vector_BD @ after[1].vector_BD.T, expected_BI)


def test_counted_scores_stand_for_the_first_block_which_vectors_leave_out():
    model = head(joins="after")
    user_BC, item_BC, output_BH = torch.randn(2, 3), torch.randn(2, 3), torch.randn(2, 6)
    model.set_weights([1, 2], [2.0, 0.5, 3.0], -1.5, counted=True)
    model.eval()
    whole = model(output_BH, USERS, user_BC).vector_BD, model(output_BH, ITEMS, item_BC).vector_BD
    assert model.width == whole[0].shape[1] == whole[1].shape[1] == 6 and model.counted_weight.tolist() == [2.0]
    parts = whole[0][:, :4] @ whole[1][:, :4].T + 0.5 * user_BC[:, 1:] @ item_BC[:, 1:].T
    torch.testing.assert_close(whole[0] @ whole[1].T, parts)
    model.set_weights([1, 2], [2.0, 0.0, 3.0], 0.0, counted=True)
    assert model.eval().width == model(output_BH, USERS, user_BC).vector_BD.shape[1] == 4


def test_weights_of_before_there_were_counted_scores_are_read_as_without():
    before = {f"head.{name}": value for name, value in head(joins="after").state_dict().items()}
    del before[COUNTED_WEIGHT]
    assert with_counted_weight(before)[COUNTED_WEIGHT].tolist() == [0.0]
    assert COUNTED_WEIGHT not in with_counted_weight({"bituning.suffix": torch.zeros(2)})
    model = head(joins="after")
    model.load_state_dict({name.removeprefix("head."): value for name, value in before.items()})
    assert model.counted_weight.tolist() == [0.0]
