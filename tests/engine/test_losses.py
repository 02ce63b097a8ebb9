"""Equations 8-12 against arithmetic done by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from laser.engine.losses import (
    catalogue_cross_entropy,
    expert_choice_counts,
    item_contrastive_loss,
    item_scores,
    load_balance_loss,
)


def test_scores_are_cosines():
    representation_BH = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    items_IH = torch.tensor([[1.0, 0.0], [0.0, 5.0], [-3.0, -4.0]])
    expected = torch.tensor([[0.6, 0.8, -1.0], [0.0, 1.0, -0.8]])
    torch.testing.assert_close(item_scores(representation_BH, items_IH), expected)


def test_contrastive_loss_is_the_softmax_cross_entropy_of_scaled_cosines():
    items_IH = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    representation_BH = torch.tensor([[1.0, 0.0], [0.5**0.5, 0.5**0.5]])  # scores (1, 0) and (√½, √½)
    # tau = 1/2: -log softmax at the targets is log(1 + e^-2) and log 2.
    by_hand = math.log(1 + math.exp(-2)) + math.log(2)
    loss = item_contrastive_loss(representation_BH, items_IH, torch.tensor([0, 1]), torch.ones(2), temperature=0.5)
    assert math.isclose(float(loss), by_hand, rel_tol=1e-6)


def test_weight_zero_counts_for_nothing():
    items_IH = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    representation_BH = torch.tensor([[1.0, 0.0], [0.5**0.5, 0.5**0.5]], requires_grad=True)
    weights_B = torch.tensor([1.0, 0.0])
    loss = item_contrastive_loss(representation_BH, items_IH, torch.tensor([0, 1]), weights_B, temperature=0.5)
    loss.backward()
    assert math.isclose(float(loss.detach()), math.log(1 + math.exp(-2)), rel_tol=1e-6)
    assert representation_BH.grad[0].any() and not representation_BH.grad[1].any()


def catalogue(dtype: torch.dtype = torch.float32, seed: int = 0, items: int = 301) -> tuple[Tensor, Tensor, Tensor]:
    """Seven queries, their wanted items among them the first and the last, and unit items."""
    generator = torch.Generator().manual_seed(seed)
    queries_BH = F.normalize(torch.randn(7, 24, generator=generator, dtype=torch.float64), dim=-1)
    items_IH = F.normalize(torch.randn(items, 24, generator=generator, dtype=torch.float64), dim=-1)
    targets_B = torch.cat([torch.tensor([0, items - 1]), torch.randint(items, (5,), generator=generator)])
    return queries_BH.to(dtype).requires_grad_(), items_IH.to(dtype).requires_grad_(), targets_B


def losses_and_gradients(function, queries_BH: Tensor, items_IH: Tensor) -> tuple[Tensor, ...]:
    losses_B = function(queries_BH, items_IH)
    incoming_B = torch.linspace(-1, 2, len(losses_B), dtype=losses_B.dtype)
    return losses_B.detach(), *torch.autograd.grad(losses_B, (queries_BH, items_IH), incoming_B)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("chunk_items", [1, 64, 300, 301, 1000])
def test_the_chunked_loss_is_the_whole_one(chunk_items, seed):
    """Against torch's cross-entropy of all scores in float64."""
    queries_BH, items_IH, targets_B = catalogue(seed=seed)
    exact = losses_and_gradients(
        lambda q, i: F.cross_entropy(q @ i.T / 0.05, targets_B, reduction="none"),
        queries_BH.detach().double().requires_grad_(),
        items_IH.detach().double().requires_grad_(),
    )
    chunked = losses_and_gradients(
        lambda q, i: catalogue_cross_entropy(q, i, targets_B, 0.05, chunk_items * 24), queries_BH, items_IH
    )
    for ours, theirs in zip(chunked, exact, strict=True):
        # Worst: 9.1e-6 of a gradient whose numbers reach 40; the whole loss in float32 is 6.4e-6 off.
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1.5e-5)


@pytest.mark.parametrize("chunk_items", [2, 9])
def test_gradients_of_the_chunked_loss_are_its_differences(chunk_items):
    queries_BH, items_IH, targets_B = catalogue(torch.float64, items=9)
    for items in (items_IH, items_IH.detach()):
        assert torch.autograd.gradcheck(
            lambda q, i: catalogue_cross_entropy(q, i, targets_B, 0.3, chunk_items * 24), (queries_BH, items)
        )
    assert torch.autograd.gradcheck(
        lambda i: catalogue_cross_entropy(queries_BH.detach(), i, targets_B, 0.3, chunk_items * 24), items_IH
    )


def test_bfloat16_items_are_read_as_they_are():
    """The loss of rounded items is exact; only their gradient is rounded once."""
    queries_BH, items_IH, targets_B = catalogue()
    rounded_IH = items_IH.detach().bfloat16().requires_grad_()
    wide_IH = rounded_IH.detach().float().requires_grad_()
    narrow, wide = (
        losses_and_gradients(lambda q, i: catalogue_cross_entropy(q, i, targets_B, 0.05, 50 * 24), queries_BH, items)
        for items in (rounded_IH, wide_IH)
    )
    assert torch.equal(narrow[0], wide[0]) and torch.equal(narrow[1], wide[1])
    assert torch.equal(narrow[2], wide[2].bfloat16())


def test_scores_far_apart_overflow_nothing_and_nan_is_not_hidden():
    queries_BH = torch.tensor([[1.0], [-1.0], [torch.nan]])
    items_IH = torch.tensor([[-1.0], [1.0], [0.5]])
    losses_B = catalogue_cross_entropy(queries_BH, items_IH, torch.tensor([0, 0, 0]), 2.0**-10, chunk_elements=1)
    assert losses_B[:2].tolist() == [2048.0, 0.0] and losses_B[2].isnan()


GATE_BNK = torch.tensor(
    [
        [[0.7, 0.2, 0.1], [0.5, 0.4, 0.1]],
        [[0.1, 0.3, 0.6], [0.2, 0.2, 0.6]],  # the second item is padding
    ]
)
MASK_BN = torch.tensor([[1.0, 1.0], [1.0, 0.0]])


def test_choice_counts_leave_padding_out():
    assert expert_choice_counts(GATE_BNK, MASK_BN).tolist() == [2.0, 0.0, 1.0]


def test_load_balance_loss_by_hand():
    # f = (2/3, 0, 1/3); P = ((.7+.5+.1)/3, (.2+.4+.3)/3, (.1+.1+.6)/3) = (1.3, .9, .8)/3; K Σ f P = 3 (2·1.3 + .8)/9
    fractions_K = expert_choice_counts(GATE_BNK, MASK_BN) / 3
    loss = load_balance_loss(GATE_BNK, MASK_BN, fractions_K) / 3
    assert math.isclose(float(loss), 3 * (2 * 1.3 + 0.8) / 9, rel_tol=1e-6)


def test_load_balance_loss_is_one_when_experts_are_even():
    gate_BNK = torch.full((4, 5, 8), 1 / 8)
    loss = load_balance_loss(gate_BNK, torch.ones(4, 5), torch.full((8,), 1 / 8)) / 20
    assert math.isclose(float(loss), 1.0, rel_tol=1e-6)


def test_load_balance_gradient_lowers_the_busy_expert():
    logits = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]], requires_grad=True)
    gate_BNK = logits.softmax(-1)
    fractions_K = expert_choice_counts(logits, torch.ones(2, 1)) / 2
    load_balance_loss(gate_BNK, torch.ones(2, 1), fractions_K).backward()
    assert logits.grad is not None
    assert (logits.grad[..., 0] > 0).all()
    assert (logits.grad[..., 1] < 0).all()
