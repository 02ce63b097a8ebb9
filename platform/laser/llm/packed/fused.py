"""The elementwise parts of a decoder block, forward and backward, each one pass over memory when compiled.

Between the matrix products of a block lie a norm, a rotation and a gated activation. Written as `transformers` writes
them they are some thirty passes over the activations, and autograd adds as many. Each function here is one expression
that `torch.compile` turns into one loop; uncompiled, it computes the same.

Arithmetic is float32 inside, and the result is rounded once to the dtype of the input. The frozen weights get no
gradient.

Shape suffixes: P packed tokens, H width, N heads of queries, keys and values, R heads that are rotated (queries and
keys), E head width or half of it, M width of the MLP. `look_up` has those of `laser.llm.late_prefix`, R for rows
and D for distances.
"""

import logging
import math
import os
import shutil
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from laser.llm.packed.rotation import turn, turn_halves

logger = logging.getLogger(__name__)

ROOT_OF_2_OVER_PI = (2 / math.pi) ** 0.5
CUBIC = 0.044715
"""Constants of gelu's tanh formula."""


def rms_norm(x_PH: Tensor, weight_H: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return the root-mean-square norm (arXiv 1910.07467), and scale_P1 (float32) for its backward."""
    wide_PH = x_PH.float()
    scale_P1 = torch.rsqrt(wide_PH.square().mean(dim=-1, keepdim=True) + epsilon)
    return (wide_PH * scale_P1 * weight_H.float()).to(x_PH.dtype), scale_P1


def rms_norm_backward(
    gradient_PH: Tensor, x_PH: Tensor, weight_H: Tensor, scale_P1: Tensor, residual_PH: Tensor
) -> Tensor:
    """Return the gradient of `rms_norm`'s input, plus the gradient that reached the input past the norm."""
    inner_PH = gradient_PH.float() * weight_H.float()
    return (residual_PH.float() + _through_norm(inner_PH, x_PH, scale_P1)).to(x_PH.dtype)


def add_rms_norm(x_PH: Tensor, weight_H: Tensor, epsilon: float, residual_PH: Tensor) -> tuple[Tensor, Tensor]:
    """Return `residual + rms_norm(x)`, and scale_P1 (float32) for its backward."""
    wide_PH = x_PH.float()
    scale_P1 = torch.rsqrt(wide_PH.square().mean(dim=-1, keepdim=True) + epsilon)
    return (residual_PH.float() + wide_PH * scale_P1 * weight_H.float()).to(x_PH.dtype), scale_P1


def add_rms_norm_backward(gradient_PH: Tensor, x_PH: Tensor, weight_H: Tensor, scale_P1: Tensor) -> Tensor:
    """Return the gradient of `add_rms_norm`'s first input; the residual gets the gradient as it is."""
    return _through_norm(gradient_PH.float() * weight_H.float(), x_PH, scale_P1).to(x_PH.dtype)


def _through_norm(inner_PH: Tensor, x_PH: Tensor, scale_P1: Tensor) -> Tensor:
    """Return the gradient of x, float32, from that of `x · scale`."""
    normed_PH = x_PH.float() * scale_P1
    mean_P1 = (inner_PH * normed_PH).mean(dim=-1, keepdim=True)
    return scale_P1 * (inner_PH - normed_PH * mean_P1)


def rotate(x_PNE: Tensor, cos_PE: Tensor, sin_PE: Tensor, num_rotated: int) -> Tensor:
    """Rotate the first heads (rotary position embedding, arXiv 2104.09864) and pass the others.

    With `-sin_PE` the same function is its backward.

    Args:
        x_PNE: heads of queries, keys and values.
        cos_PE: half a head wide, float32.
        sin_PE: half a head wide, float32.
        num_rotated: heads that are rotated.
    """
    rotated = turn(x_PNE[:, :num_rotated].float(), cos_PE[:, None], sin_PE[:, None]).to(x_PNE.dtype)
    return torch.cat([rotated, x_PNE[:, num_rotated:]], dim=1)


def norm_rotate(
    x_PNE: Tensor, weight_RE: Tensor, epsilon: float, cos_PE: Tensor, sin_PE: Tensor
) -> tuple[Tensor, Tensor]:
    """Norm and rotate the first heads and pass the others; also return scale_PR1 (float32) for the backward.

    Args:
        x_PNE: heads of queries, keys and values.
        weight_RE: the norm's weight for each head that is rotated.
        epsilon: of the norm.
        cos_PE: half a head wide, float32.
        sin_PE: half a head wide, float32.
    """
    num_rotated = len(weight_RE)
    wide_PRE = x_PNE[:, :num_rotated].float()
    scale_PR1 = torch.rsqrt(wide_PRE.square().mean(dim=-1, keepdim=True) + epsilon)
    rotated = turn(wide_PRE * scale_PR1 * weight_RE.float(), cos_PE[:, None], sin_PE[:, None]).to(x_PNE.dtype)
    return torch.cat([rotated, x_PNE[:, num_rotated:]], dim=1), scale_PR1


def norm_rotate_backward(
    gradient_PNE: Tensor, x_PNE: Tensor, weight_RE: Tensor, scale_PR1: Tensor, cos_PE: Tensor, sin_PE: Tensor
) -> Tensor:
    """Return the gradient of `norm_rotate`'s heads."""
    num_rotated = len(weight_RE)
    inner_PRE = turn(gradient_PNE[:, :num_rotated].float(), cos_PE[:, None], -sin_PE[:, None]) * weight_RE.float()
    to_x_PRE = _through_norm(inner_PRE, x_PNE[:, :num_rotated], scale_PR1).to(gradient_PNE.dtype)
    return torch.cat([to_x_PRE, gradient_PNE[:, num_rotated:]], dim=1)


def look_up(rows_R2GE: Tensor, row_BS: Tensor, turning: tuple[Tensor, Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """Return keys and values of cached text, head by head: two (B, G, S, E), contiguous.

    Args:
        rows_R2GE: keys and values of all cached tokens, as one block keeps them.
        row_BS: int64, the rows of each history's text.
        turning: distance_BS, int64, by which each key is moved, and the cosines and sines of each distance, cos_DE and
            sin_DE, half a head wide, float32; None where the keys lie where they were read.
    """
    key_BGSE, value_BGSE = (state_BSGE.transpose(1, 2) for state_BSGE in rows_R2GE[row_BS].unbind(2))
    if turning is not None:
        distance_BS, *turns_DE = turning
        cos_B1SE, sin_B1SE = (turn_DE[distance_BS][:, None] for turn_DE in turns_DE)
        # Rounded half by half, so that the compiled loop writes keys where they go, and no float32 copy of them.
        first_BGSE, second_BGSE = (half_BGSE.float() for half_BGSE in key_BGSE.chunk(2, dim=-1))
        turned = turn_halves(first_BGSE, second_BGSE, cos_B1SE, sin_B1SE)
        key_BGSE = torch.cat([half_BGSE.to(rows_R2GE.dtype) for half_BGSE in turned], dim=-1)
    return key_BGSE.contiguous(), value_BGSE.contiguous()


def swiglu(gate_up_PM: Tensor) -> Tensor:
    """Return `silu(gate) · up` (arXiv 2002.05202) of the two halves of one product (P, 2 M)."""
    gate_PM, up_PM = gate_up_PM.chunk(2, dim=-1)
    return (F.silu(gate_PM.float()) * up_PM.float()).to(gate_up_PM.dtype)


def swiglu_backward(gradient_PM: Tensor, gate_up_PM: Tensor) -> Tensor:
    """Return the gradient (P, 2 M) of both halves."""
    gate_PM, up_PM = (half.float() for half in gate_up_PM.chunk(2, dim=-1))
    wide_PM = gradient_PM.float()
    sigmoid_PM = torch.sigmoid(gate_PM)
    silu_PM = gate_PM * sigmoid_PM
    to_gate_PM = wide_PM * up_PM * (sigmoid_PM + silu_PM * (1 - sigmoid_PM))
    return torch.cat([to_gate_PM, wide_PM * silu_PM], dim=-1).to(gradient_PM.dtype)


def geglu(gate_up_PM: Tensor) -> Tensor:
    """Return `gelu(gate) · up` of the two halves of one product (P, 2 M), by gelu's tanh formula (arXiv 1606.08415)."""
    gate_PM, up_PM = gate_up_PM.chunk(2, dim=-1)
    return (F.gelu(gate_PM.float(), approximate="tanh") * up_PM.float()).to(gate_up_PM.dtype)


def geglu_backward(gradient_PM: Tensor, gate_up_PM: Tensor) -> Tensor:
    """Return the gradient (P, 2 M) of both halves."""
    gate_PM, up_PM = (half.float() for half in gate_up_PM.chunk(2, dim=-1))
    wide_PM = gradient_PM.float()
    square_PM = gate_PM * gate_PM
    tanh_PM = torch.tanh(ROOT_OF_2_OVER_PI * gate_PM * (1 + CUBIC * square_PM))
    slope_PM = (1 - tanh_PM * tanh_PM) * ROOT_OF_2_OVER_PI * (1 + 3 * CUBIC * square_PM)
    to_gate_PM = wide_PM * up_PM * (0.5 * (1 + tanh_PM) + 0.5 * gate_PM * slope_PM)
    gelu_PM = 0.5 * gate_PM * (1 + tanh_PM)
    return torch.cat([to_gate_PM, wide_PM * gelu_PM], dim=-1).to(gradient_PM.dtype)


class Kernels(NamedTuple):
    """The functions above, eager or compiled."""

    rms_norm: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]
    rms_norm_backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    add_rms_norm: Callable[[Tensor, Tensor, float, Tensor], tuple[Tensor, Tensor]]
    add_rms_norm_backward: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    rotate: Callable[[Tensor, Tensor, Tensor, int], Tensor]
    norm_rotate: Callable[[Tensor, Tensor, float, Tensor, Tensor], tuple[Tensor, Tensor]]
    norm_rotate_backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    look_up: Callable[[Tensor, Tensor, tuple[Tensor, Tensor, Tensor] | None], tuple[Tensor, Tensor]]
    swiglu: Callable[[Tensor], Tensor]
    swiglu_backward: Callable[[Tensor, Tensor], Tensor]
    geglu: Callable[[Tensor], Tensor]
    geglu_backward: Callable[[Tensor, Tensor], Tensor]


EAGER = Kernels(
    rms_norm,
    rms_norm_backward,
    add_rms_norm,
    add_rms_norm_backward,
    rotate,
    norm_rotate,
    norm_rotate_backward,
    look_up,
    swiglu,
    swiglu_backward,
    geglu,
    geglu_backward,
)


def kernels(compile: bool) -> Kernels:
    """Return the compiled functions if asked for, else the eager ones; torch compiles with a C++ compiler alone."""
    if not compile:
        return EAGER
    if not (shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")):
        logger.warning("llm.compile: no C++ compiler (g++, clang++ or CXX): the LLM runs uncompiled, a third slower")
        return EAGER
    return compiled()


@lru_cache(maxsize=1)
def compiled() -> Kernels:
    """Return the functions compiled for any number of tokens.

    The first call of each compiles it (2 cores: 10 s for a Llama's five), or finds it in torch's cache on disk (3 s).
    """
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # else torch keeps a pool of processes for them
    return Kernels._make(torch.compile(function, dynamic=True) for function in EAGER)
