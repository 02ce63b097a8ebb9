"""The algebra of a subspace that moves: its choice, Adam's moments in it, and how much of a matrix it holds.

Shape suffixes: I input width, O output width, R rank, X the side of a thin matrix that is no rank.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Leading(NamedTuple):
    """The best approximation of rank R of a matrix."""

    left_OR: Tensor
    sizes_R: Tensor
    right_RI: Tensor
    share: float
    """Share of the matrix' squared norm that it holds; 0 of a zero matrix."""


def leading(matrix_OI: Tensor, rank: int) -> Leading:
    """Return the leading singular vectors and values."""
    left, sizes, right = torch.linalg.svd(matrix_OI, full_matrices=False)
    energy = sizes.square()
    share = float(energy[:rank].sum() / energy.sum().clamp_min(torch.finfo(energy.dtype).tiny))
    return Leading(left[:, :rank], sizes[:rank], right[:rank], share)


def share_in_rows(matrix_OI: Tensor, rows_RI: Tensor) -> float:
    """Return the share of a matrix' squared norm that lies in the span of some rows."""
    basis_IR = torch.linalg.qr(rows_RI.T).Q
    whole = matrix_OI.square().sum().clamp_min(torch.finfo(matrix_OI.dtype).tiny)
    return float((matrix_OI @ basis_IR).square().sum() / whole)


def turned_moments(
    first_XR: Tensor, second_XR: Tensor, turn_RR: Tensor, step: float, betas: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Return Adam's moments of a gradient g as those of g T: LDAdam's projection-aware rule (ICLR 2025).

    The first moment is linear in g. The second is split into the square of the first, which turns with it, and the
    variance, whose correlations are unknown and taken as zero. Both are corrected for their bias.

    Args:
        first_XR: Adam's `exp_avg`.
        second_XR: Adam's `exp_avg_sq`.
        turn_RR: T.
        step: steps that the moments have seen, at least 1.
        betas: Adam's decay rates.
    """
    correct_first, correct_second = 1 - betas[0] ** step, 1 - betas[1] ** step
    mean_XR, square_XR = first_XR / correct_first, second_XR / correct_second
    mean_turned = mean_XR @ turn_RR
    spread = (square_XR - mean_XR.square()) @ turn_RR.square()
    return first_XR @ turn_RR, correct_second * (spread + mean_turned.square()).abs()


def change_of_rows(old_RI: Tensor, new_RI: Tensor) -> Tensor:
    """Return T, by which a gradient within old rows, G A_oldᵀ, becomes the one within new rows, as far as it is known.

    The old rows need not be orthonormal. What G has beyond their span counts as zero.
    """
    return (new_RI @ torch.linalg.pinv(old_RI)).T


def balanced(up_OR: Tensor, down_RI: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return factors of equal size with the same product; None where it has not the full rank."""
    basis_OR, core_up = torch.linalg.qr(up_OR)
    basis_IR, core_down = torch.linalg.qr(down_RI.T)
    left, sizes_R, right = torch.linalg.svd(core_up @ core_down.T)
    if sizes_R[-1] <= torch.finfo(sizes_R.dtype).eps * sizes_R[0]:
        return None
    roots_R = sizes_R.sqrt()
    return basis_OR @ left * roots_R, roots_R[:, None] * (right @ basis_IR.T)


def effective_rank(matrix_OI: Tensor) -> float:
    """Return the exponential of the entropy of the singular values (Roy & Vetterli, 2007); 0 of a zero matrix."""
    sizes = torch.linalg.svdvals(matrix_OI)
    if not sizes.sum() > 0:
        return 0.0
    shares = sizes / sizes.sum()
    return float(torch.exp(torch.special.entr(shares).sum()))
