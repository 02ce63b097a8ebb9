"""Equations 8-12 against arithmetic done by hand."""

import math

import torch

from laser.training.losses import expert_choice_counts, item_contrastive_loss, item_scores, load_balance_loss


def test_scores_are_cosines():
    representation_BH = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    items_IH = torch.tensor([[1.0, 0.0], [0.0, 5.0], [-3.0, -4.0]])
    expected = torch.tensor([[0.6, 0.8, -1.0], [0.0, 1.0, -0.8]])
    torch.testing.assert_close(item_scores(representation_BH, items_IH), expected)


def test_contrastive_loss_is_the_softmax_cross_entropy_of_scaled_cosines():
    scores_BI = torch.tensor([[0.1, 0.0], [0.05, 0.05]])
    # tau = 0.1: scaled scores (1, 0) and (.5, .5); -log softmax at the targets: log(1 + e^-1) and log 2.
    by_hand = math.log(1 + math.exp(-1)) + math.log(2)
    loss = item_contrastive_loss(scores_BI, torch.tensor([0, 1]), torch.ones(2), temperature=0.1)
    assert math.isclose(float(loss), by_hand, rel_tol=1e-6)


def test_weight_zero_counts_for_nothing():
    scores_BI = torch.tensor([[0.1, 0.0], [0.9, -0.9]])
    loss = item_contrastive_loss(scores_BI, torch.tensor([0, 1]), torch.tensor([1.0, 0.0]), temperature=0.1)
    assert math.isclose(float(loss), math.log(1 + math.exp(-1)), rel_tol=1e-6)


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
