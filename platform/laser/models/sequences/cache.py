"""What is cached of a user's history: bytes, a row an item, and files of many users' rows.

A row has, layer after layer, the numbers of the item's own and its rows of the pools. Numbers are bf16, fp32, or int8
with one fp16 scale for each vector. A row of a pool takes two bytes.

Shape suffixes: B batch, N history items, D own width, X bytes.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from laser.models.sequences.collective import CollectiveAttention, Stored

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "int8": torch.int8}
INDEX = torch.uint16
"""Of a row of a pool, so that a pool has at most 65,536."""


@dataclass(frozen=True)
class Cache:
    """A user's history: rows of all items but the last, and the last item's id, which asks what comes next."""

    rows_NX: Tensor
    last: int

    @property
    def nbytes(self) -> int:
        """Bytes of the rows, and four of the last item's id."""
        return self.rows_NX.nbytes + 4


class Padded(NamedTuple):
    """The caches of several users as one batch."""

    rows_BNX: Tensor
    mask_BN: Tensor
    """True at real items."""
    last_B: Tensor
    """Ids of the last items."""


def row_bytes(attentions: Sequence[CollectiveAttention], dtype: str) -> int:
    """Return the bytes of an item's row, over all layers."""
    scale = 2 if dtype == "int8" else 0
    numbers = DTYPES[dtype].itemsize
    return sum(
        sum(width * numbers + scale for width in one.widths) + one.num_rows * INDEX.itemsize for one in attentions
    )


def pack(layers: Sequence[Stored], dtype: str) -> Tensor:
    """Return the rows of items: uint8 rows_BNX."""
    parts = []
    for stored in layers:
        for own_BND in stored.own:
            parts += _numbers(own_BND.detach(), dtype)
        parts += [_bytes(rows_BN[..., None].to(INDEX)) for rows_BN in stored.rows]
    return torch.cat(parts, dim=-1)


def unpack(rows_BNX: Tensor, attentions: Sequence[CollectiveAttention], dtype: str) -> list[Stored]:
    """Return what `pack` was given, layer after layer, as float32 and int64."""
    layers, place = [], 0

    def take(kind: torch.dtype, count: int) -> Tensor:
        nonlocal place
        end = place + count * kind.itemsize
        part, place = rows_BNX[..., place:end].clone(memory_format=torch.contiguous_format).view(kind), end
        return part

    for attention in attentions:
        own = []
        for width in attention.widths:
            numbers_BND = take(DTYPES[dtype], width).float()
            own.append(numbers_BND * take(torch.float16, 1).float() if dtype == "int8" else numbers_BND)
        rows = tuple(take(INDEX, 1)[..., 0].long() for _ in range(attention.num_rows))
        layers.append(Stored(tuple(own), rows))
    return layers


def padded(caches: Sequence[Cache]) -> Padded:
    """Return the caches as a batch, with row 0 of pools at the padding."""
    lengths_B = torch.tensor([len(cache.rows_NX) for cache in caches])
    rows_BNX = torch.nn.utils.rnn.pad_sequence([cache.rows_NX for cache in caches], batch_first=True)
    mask_BN = torch.arange(rows_BNX.shape[1]) < lengths_B[:, None]
    return Padded(rows_BNX, mask_BN, torch.tensor([cache.last for cache in caches]))


class CacheFile:
    """The caches of many users in one file, whose size is that of their rows.

    Args:
        path: the file to write.
        caches: what it holds; a user is a place in this list.
    """

    def __init__(self, path: Path, caches: Sequence[Cache]) -> None:
        self.path, self.last = path, [cache.last for cache in caches]
        self.ends = np.cumsum([0, *(len(cache.rows_NX) for cache in caches)]).tolist()
        with path.open("wb") as file:
            for cache in caches:
                file.write(cache.rows_NX.numpy().tobytes())
            file.flush()
            os.fsync(file.fileno())  # the kernel drops only what is on disk
        self.width = caches[0].rows_NX.shape[1]

    def __getitem__(self, user: int) -> Cache:
        start, count = self.ends[user], self.ends[user + 1] - self.ends[user]
        values = np.fromfile(self.path, np.uint8, count * self.width, offset=start * self.width)
        return Cache(torch.from_numpy(values.reshape(count, self.width)), self.last[user])

    def cold(self, users: Iterable[int]) -> list[Cache]:
        """Read caches after the kernel has dropped what it keeps of the file in memory (Linux)."""
        with self.path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return [self[user] for user in users]


def _numbers(own_BND: Tensor, dtype: str) -> list[Tensor]:
    if dtype != "int8":
        return [_bytes(own_BND.to(DTYPES[dtype]))]
    scale_BN1 = (own_BND.abs().amax(dim=-1, keepdim=True) / 127).clamp(min=1e-7).half()
    return [_bytes((own_BND / scale_BN1.float()).round().clamp(-127, 127).to(torch.int8)), _bytes(scale_BN1)]


def _bytes(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.uint8)
