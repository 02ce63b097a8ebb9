"""Solvers and influence on a logistic regression of three weights, where all can be solved and trained anew."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from laser.errors import UserError
from laser.scoring.solvers import conjugate_gradients, lissa

NUM = 200
RIDGE = 0.05


def losses(weights_P: Tensor, x_SP: Tensor, y_S: Tensor) -> Tensor:
    """The loss of each sample, with its part of the ridge."""
    return F.binary_cross_entropy_with_logits(x_SP @ weights_P, y_S, reduction="none") + RIDGE * weights_P @ weights_P


def fitted(x_SP: Tensor, y_S: Tensor, keep_S: Tensor | None = None) -> Tensor:
    """The minimum, by Newton's method to rounding; a sample that is left out counts in the number of samples."""
    keep_S = torch.ones_like(y_S) if keep_S is None else keep_S
    weights_P = torch.zeros(x_SP.shape[1], dtype=torch.float64)
    ridge_PP = 2 * RIDGE * keep_S.sum() * torch.eye(len(weights_P)).double()
    for _ in range(8):
        chance_S = (x_SP @ weights_P).sigmoid()
        slope_P = x_SP.T @ (keep_S * (chance_S - y_S)) + ridge_PP @ weights_P
        hessian_PP = (x_SP.T * (keep_S * chance_S * (1 - chance_S))) @ x_SP + ridge_PP
        weights_P = weights_P - torch.linalg.solve(hessian_PP, slope_P)
    return weights_P


@pytest.fixture(scope="module")
def regression():
    torch.manual_seed(0)
    x_SP, held_out = torch.randn(NUM, 3).double(), torch.randn(40, 3).double()
    truth_P = torch.tensor([1.0, -2.0, 0.5]).double()
    y_S, held_out_y = (torch.bernoulli((part @ truth_P).sigmoid()) for part in (x_SP, held_out))
    weights_P = fitted(x_SP, y_S)
    hessian_PP = torch.func.hessian(lambda w: losses(w, x_SP, y_S).mean())(weights_P)
    gradients_SP = torch.func.jacrev(lambda w: losses(w, x_SP, y_S))(weights_P)
    return x_SP, y_S, held_out, held_out_y, weights_P, hessian_PP, gradients_SP


def test_conjugate_gradients_equal_a_direct_solve(regression):
    hessian_PP, v_P = regression[5], regression[6][3]
    found = conjugate_gradients(lambda x: hessian_PP @ x, v_P, damping=0.1, tolerance=1e-13)
    expected = torch.linalg.solve(hessian_PP + 0.1 * torch.eye(3).double(), v_P)
    torch.testing.assert_close(found.vector_P, expected, rtol=0, atol=1e-12)
    assert found.products <= 4


@pytest.mark.parametrize("average", [False, True])
def test_lissa_with_the_whole_hessian_settles_at_the_damping_times_the_scale(regression, average):
    hessian_PP, v_P = regression[5], regression[6][3]
    found = lissa(lambda step: lambda x: hessian_PP @ x, v_P, 8_000, damping=0.01, scale=2.0, average=average)
    expected = torch.linalg.solve(hessian_PP + 0.02 * torch.eye(3).double(), v_P)
    torch.testing.assert_close(found.vector_P, expected, rtol=0, atol=1e-12)


def test_the_mean_of_lissas_second_half_is_nearer_than_its_last_step(regression):
    x_SP, y_S, _, _, weights_P, _, gradients_SP = regression
    of_sample_SPP = torch.stack([torch.func.hessian(lambda w, s=s: losses(w, x_SP[s : s + 1], y_S[s : s + 1])[0])(
        weights_P) for s in range(60)])  # fmt: skip
    hessian_PP = of_sample_SPP.mean(dim=0)
    exact = torch.linalg.solve(hessian_PP + 0.02 * torch.eye(3).double(), gradients_SP[3])

    def distance(average: bool, seed: int) -> float:
        steps = np.random.default_rng(seed).integers(60, size=1_000)
        found = lissa(lambda t: lambda x: of_sample_SPP[steps[t]] @ x, gradients_SP[3], 1_000, 0.01, 2.0, average)
        return float((found.vector_P - exact).norm() / exact.norm())

    last, mean = ([distance(average, seed) for seed in range(6)] for average in (False, True))
    assert sum(mean) < sum(last) / 2


def test_an_indefinite_hessian_and_a_small_scale_are_refused_by_name():
    hessian_PP, v_P = torch.diag(torch.tensor([1.0, -4.0])), torch.ones(2)
    with pytest.raises(UserError, match=r"selection.damping: .* curvature -2.*raise"):
        conjugate_gradients(lambda x: hessian_PP @ x, v_P, damping=0.5)
    with pytest.raises(UserError, match=r"selection.scale: 0.1; .* raise it"):
        lissa(lambda step: lambda x: hessian_PP @ x, v_P, 2_000, 0.01, 0.1)


def test_influence_on_a_held_out_risk_is_what_leaving_a_sample_out_does_to_it(regression):
    x_SP, y_S, held_out, held_out_y, weights_P, hessian_PP, gradients_SP = regression

    def risk(weights_P: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(held_out @ weights_P, held_out_y)

    v_P = torch.func.grad(risk)(weights_P)
    influence_S = gradients_SP @ conjugate_gradients(lambda x: hessian_PP @ x, v_P, 0.0, 1e-12).vector_P / NUM
    left_out_S = torch.ones(NUM, NUM).double() - torch.eye(NUM).double()
    rises = [float(risk(fitted(x_SP, y_S, keep)) - risk(weights_P)) for keep in left_out_S]
    assert np.corrcoef(influence_S.numpy(), rises)[0, 1] > 0.99  # measured: .998


def test_at_the_minimum_no_sample_has_influence_on_the_training_risk(regression):
    gradients_SP, hessian_PP = regression[6], regression[5]
    v_P = gradients_SP.mean(dim=0)
    influence_S = gradients_SP @ conjugate_gradients(lambda x: hessian_PP @ x, v_P, 0.0).vector_P / NUM
    assert influence_S.abs().max() < 1e-15  # and up to 1e-2 on the held-out risk
