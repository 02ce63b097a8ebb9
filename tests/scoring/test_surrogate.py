"""Gradients and Hessian products of a tiny SASRec, by two ways each."""

import numpy as np
import pytest
import torch

from laser.config.families.selection import DealrecUsers
from laser.families.sasrec import SASRec
from laser.scoring.influence import inverse_hessian_product
from laser.scoring.surrogate import Surrogate

SEQUENCES = [np.array(items, np.int32) for items in ([0, 1], [1, 0, 1, 1], [0, 0, 1], [1, 1])]


@pytest.fixture
def surrogate(monkeypatch) -> Surrogate:
    torch.manual_seed(0)
    monkeypatch.setattr("laser.scoring.surrogate.BATCH_SCORES", 3 * 4 * 2)  # three users at once
    return Surrogate(SASRec(2, hidden_size=4, num_layers=2, num_heads=2, max_history=5, dropout=0.5).double())


def user_gradient(surrogate: Surrogate, sequence: np.ndarray, last_only: bool = False) -> torch.Tensor:
    """Of one user alone, as plain autograd gives it."""
    items = torch.from_numpy(sequence.astype(np.int64))[None]
    loss = surrogate.model.losses(items, torch.ones_like(items, dtype=torch.bool), last_only)[0]
    return torch.autograd.grad(loss, surrogate.weight)[0].flatten()


@pytest.mark.parametrize("last_only", [False, True])
def test_batched_gradients_equal_those_of_one_user_at_a_time(surrogate, last_only):
    alone = torch.stack([user_gradient(surrogate, sequence, last_only) for sequence in SEQUENCES])
    found = surrogate.gradients(SEQUENCES, last_only)
    torch.testing.assert_close(found.mean_P, alone.mean(dim=0), rtol=0, atol=1e-15)
    assert found.mean_norm == pytest.approx(float(alone.norm(dim=1).mean()), abs=1e-14)
    if not last_only:
        vector_P = torch.arange(16).double()
        np.testing.assert_allclose(surrogate.dot_gradients(SEQUENCES, vector_P), alone @ vector_P, atol=1e-13)


def test_a_users_loss_is_the_mean_over_its_next_items(surrogate):
    items = torch.tensor([[0, 1, 1, 0]])
    mask = torch.ones_like(items, dtype=torch.bool)
    generator = torch.Generator()
    whole = surrogate.model.losses(items, mask)
    torch.testing.assert_close(whole[0], surrogate.model.loss(items, mask, generator))
    padded = torch.tensor([[0, 1, 1, 0, 1, 1]])
    torch.testing.assert_close(surrogate.model.losses(padded, torch.arange(6)[None] < 4), whole)


def test_hessian_products_equal_finite_differences_of_gradients(surrogate):
    direction_P = torch.randn(16).double()
    found = surrogate.hessian_product(SEQUENCES, direction_P)
    with torch.no_grad():
        step = 1e-5 * direction_P.view_as(surrogate.weight)
        surrogate.weight.add_(step)
    above = surrogate.gradients(SEQUENCES).mean_P
    with torch.no_grad():
        surrogate.weight.sub_(2 * step)
    below = surrogate.gradients(SEQUENCES).mean_P
    torch.testing.assert_close(found, (above - below) / 2e-5, rtol=0, atol=1e-8)


def test_influences_on_the_training_risk_sum_to_a_square(surrogate):
    v_P = surrogate.gradients(SEQUENCES).mean_P
    config = DealrecUsers(num_users=2)
    solved_P = inverse_hessian_product(config, surrogate, SEQUENCES, v_P, 0).vector_P
    influences = surrogate.dot_gradients(SEQUENCES, solved_P) / len(SEQUENCES)
    assert influences.sum() == pytest.approx(float(v_P @ solved_P))
    assert influences.sum() > 0


def test_lissas_random_steps_end_near_conjugate_gradients(surrogate):
    v_P = surrogate.gradients(SEQUENCES).mean_P
    exact = inverse_hessian_product(DealrecUsers(num_users=2), surrogate, SEQUENCES, v_P, 0).vector_P
    config = DealrecUsers(num_users=2, solver="lissa", steps=200, damping=0.125, scale=2.0, average=True)
    found = inverse_hessian_product(config, surrogate, SEQUENCES, v_P, 0).vector_P
    assert (found - exact).norm() < 0.15 * exact.norm()  # measured: .07
