"""Describes where cached texts lie and what shape their rows have.

Processes that only start a training read this description, so it imports no models: these take three seconds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def state_files(folder: Path, blocks: int) -> list[Path]:
    """Return the files of rows in a folder of cached texts, one for each block of the LLM."""
    return [folder / f"block-{number}.bin" for number in range(blocks)]


@dataclass(frozen=True)
class StateShape:
    """The number of blocks, and the shape and dtype of a row of each."""

    blocks: int
    heads: int
    head_width: int
    dtype: torch.dtype

    @staticmethod
    def of(config: "PretrainedConfig", dtype: torch.dtype) -> "StateShape":
        """Return the shape of the states of this decoder."""
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return StateShape(config.num_hidden_layers, heads, width, dtype)

    @property
    def row(self) -> tuple[int, ...]:
        """Keys and values of one token in one block."""
        return (2, self.heads, self.head_width)

    @property
    def row_bytes(self) -> int:
        """Bytes of one token in one block."""
        return int(np.prod(self.row)) * self.dtype.itemsize

    @property
    def token_bytes(self) -> int:
        """Bytes of one token in all blocks."""
        return self.blocks * self.row_bytes


@dataclass(frozen=True)
class TextFiles:
    """Says where the cached texts of an experiment lie. It can be pickled."""

    folder: Path
    shape: StateShape
    starts: Path
    """First rows: of each split's items or examples, and of its instruction."""

    @property
    def nbytes(self) -> int:
        """Bytes of all rows on disk."""
        return sum(path.stat().st_size for path in state_files(self.folder, self.shape.blocks))
