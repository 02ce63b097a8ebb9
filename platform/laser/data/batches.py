"""Batches of histories of similar length. Their order does not depend on the number of workers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

WINDOW_BATCHES = 32
"""Batches whose examples are sorted by length together. With more, batches are padded less; with fewer, their order is
more random."""


def pad_right(sequences: Sequence[NDArray[np.int32]], padding: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Stack sequences of different lengths, padded to the longest one.

    Returns:
        values (B, T) int64, and mask (B, T) bool, true at real entries.
    """
    return stack_right(np.concatenate(sequences), np.array([len(sequence) for sequence in sequences]), padding)


def stack_right(
    values: NDArray[np.int32], lengths: NDArray[np.int64], padding: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Do as `pad_right`, given the sequences one after the other, and how long each is."""
    mask = np.arange(lengths.max()) < lengths[:, None]
    stacked = np.full(mask.shape, padding, dtype=np.int64)
    stacked[mask] = values
    return stacked, mask


def training_batches(lengths: NDArray[np.int64], batch_size: int, seed: int, epoch: int) -> list[Indices]:
    """Put every example into one batch of similar lengths. The result depends on the seed and the epoch alone.

    The examples are shuffled, sorted by length within windows of `WINDOW_BATCHES` batches, and cut into batches. Then
    the batches are shuffled. At most one batch is smaller than `batch_size`.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    window = batch_size * WINDOW_BATCHES
    parts = [order[start : start + window] for start in range(0, len(order), window)]
    order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batches[index] for index in random.permutation(len(batches))]


def inference_batches(lengths: NDArray[np.int64], max_tokens: int) -> list[Indices]:
    """Put every example into one batch, longest first. A batch's padded size is at most `max_tokens`.

    An example that is longer than that makes a batch of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        size = max(1, max_tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + size])
        start += size
    return batches


def shard(indices: Indices, rank: int, world_size: int) -> Indices:
    """Return the part of a batch that one of `world_size` workers takes."""
    return indices[rank::world_size]
