"""The elementwise parts of a decoder block, forward and backward, each one pass over memory when compiled.

Between the matrix products of a block lie a norm, a rotation and a gated activation. Written as `transformers` writes
them they are some thirty passes over the activations, and autograd adds as many. Each function here is one expression
that `torch.compile` turns into one loop; eager, they compute the same.

Arithmetic is float32 inside, and the result is rounded once to the dtype of the input. The frozen weights get no
gradient.

Shape suffixes: P packed tokens, H width, N heads of queries, keys and values, E head width, M width of the MLP.
"""

import logging
import os
import shutil
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

logger = logging.getLogger(__name__)


def rms_norm(x_PH: Tensor, weight_H: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Root-mean-square norm (arXiv 1910.07467), and the inverse scale_P1 (float32) that its backward needs."""
    wide_PH = x_PH.float()
    scale_P1 = torch.rsqrt(wide_PH.square().mean(dim=-1, keepdim=True) + epsilon)
    return (wide_PH * scale_P1 * weight_H.float()).to(x_PH.dtype), scale_P1


def rms_norm_backward(
    gradient_PH: Tensor, x_PH: Tensor, weight_H: Tensor, scale_P1: Tensor, residual_PH: Tensor
) -> Tensor:
    """The gradient of `rms_norm`'s input, plus the gradient that reached it past the norm."""
    normed_PH = x_PH.float() * scale_P1
    inner_PH = gradient_PH.float() * weight_H.float()
    mean_P1 = (inner_PH * normed_PH).mean(dim=-1, keepdim=True)
    return (residual_PH.float() + scale_P1 * (inner_PH - normed_PH * mean_P1)).to(x_PH.dtype)


def rotate(x_PNE: Tensor, cos_PE: Tensor, sin_PE: Tensor, num_rotated: int) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864) of the first heads; the others pass. Its backward is `-sin_PE`.

    Args:
        x_PNE: heads of queries, keys and values.
        cos_PE: half a head wide, float32.
        sin_PE: half a head wide, float32.
        num_rotated: heads that are rotated.
    """
    first, second = x_PNE[:, :num_rotated].float().chunk(2, dim=-1)
    cos, sin = cos_PE[:, None], sin_PE[:, None]
    rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x_PNE.dtype)
    return torch.cat([rotated, x_PNE[:, num_rotated:]], dim=1)


def swiglu(gate_up_PM: Tensor) -> Tensor:
    """`silu(gate) · up` (arXiv 2002.05202) of the two halves (P, 2 M) of one product."""
    gate_PM, up_PM = gate_up_PM.chunk(2, dim=-1)
    return (F.silu(gate_PM.float()) * up_PM.float()).to(gate_up_PM.dtype)


def swiglu_backward(gradient_PM: Tensor, gate_up_PM: Tensor) -> Tensor:
    """The gradient (P, 2 M) of both halves."""
    gate_PM, up_PM = (half.float() for half in gate_up_PM.chunk(2, dim=-1))
    wide_PM = gradient_PM.float()
    sigmoid_PM = torch.sigmoid(gate_PM)
    silu_PM = gate_PM * sigmoid_PM
    to_gate_PM = wide_PM * up_PM * (sigmoid_PM + silu_PM * (1 - sigmoid_PM))
    return torch.cat([to_gate_PM, wide_PM * silu_PM], dim=-1).to(gradient_PM.dtype)


class Kernels(NamedTuple):
    """The functions above, eager or compiled."""

    rms_norm: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]
    rms_norm_backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    rotate: Callable[[Tensor, Tensor, Tensor, int], Tensor]
    swiglu: Callable[[Tensor], Tensor]
    swiglu_backward: Callable[[Tensor, Tensor], Tensor]


EAGER = Kernels(rms_norm, rms_norm_backward, rotate, swiglu, swiglu_backward)


def kernels(compile: bool) -> Kernels:
    """Compiled functions where that is asked for and there is a C++ compiler, which torch needs on CPUs and GPUs."""
    if not compile:
        return EAGER
    if not (shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")):
        logger.warning("llm.compile: no C++ compiler (g++, clang++ or CXX): the LLM runs uncompiled, a third slower")
        return EAGER
    return compiled()


@lru_cache(maxsize=1)
def compiled() -> Kernels:
    """The functions compiled for any number of tokens.

    The first call of each compiles it (2 cores: 10 s for all five), or finds it in torch's cache on disk (3 s).
    """
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # else it keeps a pool of processes for five functions
    return Kernels._make(torch.compile(function, dynamic=True) for function in EAGER)
