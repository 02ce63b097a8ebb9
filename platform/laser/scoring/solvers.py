"""Applies the inverse of a damped Hessian to a vector, from products of the Hessian with vectors alone.

Shape suffix: P numbers of the parameter.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from laser.errors import UserError

Product = Callable[[Tensor], Tensor]
"""Returns the product of a Hessian with a vector of shape (P,)."""


class Solution(NamedTuple):
    """What a solver found."""

    vector_P: Tensor
    """(H + damping · 1)⁻¹ v."""
    products: int
    """Products with a Hessian that it took."""


def conjugate_gradients(
    product: Product, v_P: Tensor, damping: float, tolerance: float = 1e-5, max_products: int = 500
) -> Solution:
    """Solve (H + damping · 1) x = v until the residual is `tolerance` times as long as v.

    Raises:
        UserError: H has an eigenvalue below -damping.
    """
    x_P, residual_P = torch.zeros_like(v_P), v_P.clone()
    direction_P, square = residual_P, residual_P @ residual_P
    enough, products = square * tolerance**2, 0
    while square > enough and products < max_products:
        bent_P = product(direction_P) + damping * direction_P
        curvature, products = direction_P @ bent_P, products + 1
        if not curvature > 0:
            raise UserError(
                f"selection.damping: H + {damping:g} · 1 has a direction of curvature {float(curvature):.2g}; raise "
                "selection.damping, or train a surrogate for longer (selection.surrogate.max_epochs)"
            )
        x_P = x_P + square / curvature * direction_P
        residual_P = residual_P - square / curvature * bent_P
        last, square = square, residual_P @ residual_P
        direction_P = residual_P + square / last * direction_P
    return Solution(x_P, products)


def lissa(
    product_at: Callable[[int], Product], v_P: Tensor, steps: int, damping: float, scale: float, average: bool = False
) -> Solution:
    """Take LiSSA's steps h ← v + (1 − δ) h − H h / σ, each with the Hessian of one sample (arXiv 2401.17197, Eq. 10).

    δ and σ are of the released code. Where the steps settle, h / σ is (H + δ σ 1)⁻¹ v: the damping is δ σ, not δ.

    Args:
        product_at: returns the product of a step's Hessian, given the step's number.
        v_P: v.
        steps: T.
        damping: δ.
        scale: σ, more than half of H's largest eigenvalue.
        average: take the mean of the second half of the steps, which has less noise than the last one.

    Raises:
        UserError: the steps grow without end.
    """
    h_P, sum_P = v_P, torch.zeros_like(v_P)
    for step in range(steps):
        h_P = v_P + (1 - damping) * h_P - product_at(step)(h_P) / scale
        if step >= steps // 2:
            sum_P = sum_P + h_P
    if not h_P.isfinite().all():
        raise UserError(f"selection.scale: {scale:g}; LiSSA's steps grow without end: raise it, or take solver=cg")
    if average:
        h_P = sum_P / (steps - steps // 2)
    return Solution(h_P / scale, steps)
