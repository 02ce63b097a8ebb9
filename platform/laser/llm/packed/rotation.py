"""Rotary position embedding (arXiv 2104.09864) of the architectures that run packed, by the types of their layers.

Shape suffixes: N tokens in any shape, E half a head's width.
"""

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from laser.llm.packed.architectures import ARCHITECTURES

Kind = str | None
"""Type of layer whose rotation a block uses; None where all blocks have the same."""


def rotation(rotary: nn.Module, position_N: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of each position, float32, as the model multiplies by them: both (N, E).

    Args:
        rotary: `transformers`' own module; it goes to the device of the positions, once.
        position_N: int64; distances may be negative.
        kind: the type of layer.
    """
    like = torch.empty(0, device=position_N.device)
    cos_1NE, sin_1NE = rotary.to(like.device)(like, position_N.reshape(1, -1), *([] if kind is None else [kind]))
    half = cos_1NE.shape[-1] // 2
    shape = (*position_N.shape, half)
    return cos_1NE[0, :, :half].reshape(shape).contiguous(), sin_1NE[0, :, :half].reshape(shape).contiguous()


def turning(config: PretrainedConfig, rotary: nn.Module, distance_N: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return for each block the cosines and sines that move a rotated key by some positions: both (N, E), float32.

    A rotation may scale what it turns (YaRN does). A key that is there already has been scaled, so moving it scales no
    more.
    """
    by_kind = {}
    kinds = [layer.rotation for layer in ARCHITECTURES[config.model_type].layers(config)]
    for kind in set(kinds):
        scale_1E, _ = rotation(rotary, distance_N.new_zeros(1), kind)
        cos_NE, sin_NE = rotation(rotary, distance_N, kind)
        by_kind[kind] = cos_NE / scale_1E, sin_NE / scale_1E
    return [by_kind[kind] for kind in kinds]


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate heads, whose first half and second half are the two coordinates; all broadcast together."""
    first, second = x.unflatten(-1, (2, -1)).unbind(-2)
    return torch.stack(turn_halves(first, second, cos, sin), dim=-2).flatten(-2)


def turn_halves(first: Tensor, second: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate heads that are given by their two coordinates; all broadcast together."""
    return first * cos - second * sin, second * cos + first * sin
