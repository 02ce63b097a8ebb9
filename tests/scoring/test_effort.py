"""The effort of a batch equals that of one user at a time, as plain autograd gives it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from laser.engine.losses import item_contrastive_loss
from laser.errors import UserError
from laser.models.batch import Batch
from laser.models.laser import Laser
from laser.scoring.effort import adapter_efforts, check_effort, head_efforts, suffix_efforts
from tiny.laser import RECOMMENDER_WIDTH, alone, batch, build

SIZE, ITEMS, TEMPERATURE = 6, 20, 0.1


def with_own_items(users: Batch) -> Batch:
    """Each user has had its target, in every second case, and item 3."""
    own = [sorted({3, int(target) if row % 2 else 3}) for row, target in enumerate(users.targets_B)]
    rows_P = torch.tensor([row for row, items in enumerate(own) for _ in items])
    return replace(
        users,
        own_items=(rows_P, torch.tensor([item for items in own for item in items])),
        state_BC=torch.randn(len(users), RECOMMENDER_WIDTH, generator=torch.Generator().manual_seed(1)),
    )


def one(users: Batch, row: int) -> Batch:
    rows_P, items_P = users.own_items
    mine = items_P[rows_P == row]
    return replace(alone(users, row), state_BC=users.state_BC[row : row + 1], own_items=(torch.zeros_like(mine), mine))


def items(laser: Laser, num_items: int = ITEMS) -> Tensor:
    return torch.randn(num_items, laser.vector_width, generator=torch.Generator().manual_seed(4))


def by_autograd(laser: Laser, users: Batch, items_ID: Tensor, weights: list[nn.Parameter]) -> Tensor:
    """The norm of each user's gradient of these weights, by a pass for each user."""
    norms = []
    for row in range(len(users)):
        mine = one(users, row)
        output = laser(mine)
        loss = item_contrastive_loss(
            output.vector_BD, items_ID, mine.targets_B, torch.ones(1), TEMPERATURE, output.history_bias, mine.own_items
        )
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        norms.append(torch.stack([part.square().sum() for part in found if part is not None]).sum().sqrt())
    return torch.stack(norms)


def of_head(laser: Laser, users: Batch, items_ID: Tensor) -> Tensor:
    outputs_BH = laser(users).representation_BH.detach()
    return head_efforts(laser.head, users, outputs_BH, items_ID, TEMPERATURE)


@pytest.mark.parametrize("collaborative", [False, True])
def test_the_effort_of_a_head(tiny_llm, collaborative):
    laser, _ = build(
        tiny_llm, head__width=6, head__shared=False, head__history_bias=True, head__collaborative=collaborative
    )
    laser.eval()
    with torch.no_grad():
        laser.head.history_bias.fill_(0.3)
    users = with_own_items(batch(SIZE))
    found_B = of_head(laser, users, items(laser))
    expected_B = by_autograd(laser, users, items(laser), list(laser.head.parameters()))
    torch.testing.assert_close(found_B, expected_B, rtol=1e-4, atol=1e-6)
    only = replace(users, targets_B=torch.zeros(SIZE).long(), own_items=(torch.arange(SIZE), torch.zeros(SIZE).long()))
    assert of_head(laser, only, items(laser, 1)).max() < 1e-6  # the only item there is has no loss


@pytest.mark.parametrize("implementation", ["auto", "transformers"])
def test_the_effort_of_the_suffix_packed_and_padded(tiny_llm, implementation):
    laser, _ = build(tiny_llm, llm__implementation=implementation)
    laser.eval()
    users = with_own_items(batch(SIZE))
    found_B = suffix_efforts(laser, users, items(laser), TEMPERATURE)
    expected_B = by_autograd(laser, users, items(laser), [laser.bituning.suffix])
    torch.testing.assert_close(found_B, expected_B, rtol=1e-3, atol=1e-6)
    # The only item there is has no loss, and asks for no effort.
    only = replace(users, targets_B=torch.zeros(SIZE).long())
    assert not suffix_efforts(laser, only, items(laser, 1), TEMPERATURE).any()


def test_the_effort_of_adapters(tiny_llm):
    laser, _ = build(tiny_llm, finetuning__type="lora", llm__implementation="transformers")
    laser.eval()
    adapters = [weight for name, weight in laser.trainable_parameters().items() if name.startswith("llm.")]
    torch.manual_seed(2)
    for weight in adapters:  # half of them start at zero, and the others have no gradient then
        nn.init.normal_(weight, std=0.1)
    users = with_own_items(batch(SIZE))
    found_B = adapter_efforts(laser, users, items(laser), TEMPERATURE)
    expected_B = by_autograd(laser, users, items(laser), adapters)
    torch.testing.assert_close(found_B, expected_B, rtol=1e-3, atol=1e-6)


def test_an_effort_of_what_is_not_there_is_refused_by_name(tiny_llm):
    plain, mean = build(tiny_llm)[0], build(tiny_llm, bituning__representation="mean")[0]
    late, _ = build(
        tiny_llm, finetuning__type="lora", llm__implementation="transformers", bituning__prefix_position="after"
    )
    for laser, kind, remedy in (
        (late, "adapters", "prefix_position before"),
        (late, "suffix", "prefix_position before"),
        (plain, "head", "head.width"),
        (mean, "suffix", "to head"),
        (plain, "adapters", "lora"),
    ):
        with pytest.raises(UserError, match=f"selection.effort: {kind}; .*{remedy}"):
            check_effort(laser, kind)
