"""The sequences that training users are encoded without, as one sorted list of entries: a sequence and its item.

Shape suffixes: B batch, N history items, I catalogue items, E entries, P places of all sequences.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from laser.recommenders.base import Items

MAX_PAIRS = 2**20
"""Pairs of items of the same sequence that are looked at together; a longer sequence comes alone."""


class OwnItems:
    """The distinct items of some sequences.

    Args:
        sequences: each with at least one item.
        num_items: I.
    """

    def __init__(self, sequences: Sequence[Items], num_items: int) -> None:
        lengths = [len(sequence) for sequence in sequences]
        self.num_items = num_items
        self.owners_P = np.repeat(np.arange(len(sequences), dtype=np.int64), lengths)
        """For each place of all sequences, the number of its sequence."""
        self._keys_E, self.entries_P, self.counts_E = np.unique(
            self.owners_P * num_items + np.concatenate(sequences), return_inverse=True, return_counts=True
        )
        self.owners_E, self.items_E = np.divmod(self._keys_E, num_items)
        self.starts = np.searchsorted(self.owners_E, np.arange(len(sequences) + 1))
        """Where the entries of each sequence start, and after the last one their number."""
        self._pair_offsets = np.concatenate([[0], np.cumsum(self.starts[self.owners_E + 1] - np.arange(len(self)))])

    def __len__(self) -> int:
        return len(self.items_E)

    def pairs(self, num_pairs: int) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.int64]]]:
        """Yield each entry's pairs with itself and with the later entries of its sequence, some `num_pairs` at once.

        Yields:
            some entries; offsets of their pairs, as in a sparse matrix; the other entry of each pair.
        """
        sizes_E = np.diff(self._pair_offsets)
        numbers = self._pair_offsets[1:] // num_pairs
        for first, end in pairwise([0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(self)]):
            sizes = sizes_E[first:end]
            offsets = np.concatenate([[0], np.cumsum(sizes)])
            others = np.arange(offsets[-1]) + np.repeat(np.arange(first, end) - offsets[:-1], sizes)
            yield slice(first, end), offsets, others

    def pair_numbers(self, left: NDArray[np.integer], right: NDArray[np.integer]) -> NDArray[np.int64]:
        """Number pairs of entries, each of one sequence and in any order, as `pairs` yields them."""
        numbers: NDArray[np.int64] = self._pair_offsets[np.minimum(left, right)] + np.abs(left - right)
        return numbers

    def bounds(self, part: slice) -> tuple[int, int]:
        """Return the numbers of the first pair of some entries and of the first one after them."""
        return int(self._pair_offsets[part.start]), int(self._pair_offsets[part.stop])

    def find(
        self, owners_B: NDArray[np.int64], item_ids_BN: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return for each item of some histories its entry in the row's sequence, and whether there is one."""
        keys_BN = owners_B[:, None] * self.num_items + item_ids_BN
        entries_BN = np.searchsorted(self._keys_E, keys_BN).clip(max=len(self) - 1)
        return entries_BN, self._keys_E[entries_BN] == keys_BN


def own_parts(
    own_sequences: Sequence[Items], item_ids_BN: Tensor, num_items: int
) -> Iterator[tuple[OwnItems, tuple[Tensor, Tensor], Tensor]]:
    """Yield the distinct ones of the rows' sequences, a few at a time, and where their items are in the histories.

    Yields:
        the entries; row and column of each place of the histories that holds an own item; the entry of each.
    """
    numbers: dict[bytes, int] = {}  # one sequence belongs to each of its user's histories
    owners_B = np.array([numbers.setdefault(own.tobytes(), len(numbers)) for own in own_sequences])
    sequences = [np.frombuffer(own, np.int32) for own in numbers]
    order, item_ids = np.argsort(owners_B, kind="stable"), item_ids_BN.cpu().numpy()
    for first, end in _parts([len(sequence) for sequence in sequences]):
        own = OwnItems(sequences[first:end], num_items)
        rows = order[slice(*np.searchsorted(owners_B[order], [first, end]))]
        entries, known = own.find(owners_B[rows] - first, item_ids[rows])
        places, columns = np.nonzero(known)
        cells = torch.from_numpy(rows[places]), torch.from_numpy(columns)
        yield own, cells, torch.from_numpy(entries[known])


def _parts(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield first and end of runs of sequences that have at most `MAX_PAIRS` pairs together, or are one."""
    first, pairs = 0, 0
    for number, length in enumerate(lengths):
        if number > first and pairs + length**2 > MAX_PAIRS:
            yield first, number
            first, pairs = number, 0
        pairs += length**2
    yield first, len(lengths)
