"""Scores of single pairs of user and item that no product of vectors holds: a history bias, and counted scores.

A user's score of an item is the product of their vectors plus what stands here. Most pairs have nothing here. So ranks
and lists take the products of the whole catalogue, and look at these pairs again.

Shape suffixes: B batch, I catalogue items, P pairs, Q pairs that are looked up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:  # scores of a history bias alone do without scipy
    from scipy.sparse import csr_array


@dataclass(frozen=True)
class PairScores:
    """The pairs of a batch's users, row after row; in a row the lowest item is first, and none is there twice."""

    num_items: int
    """I."""
    rows_P: Tensor
    """int64."""
    items_P: Tensor
    """int64."""
    counted_P: Tensor
    """float32, added to the product; 0 where only the history holds the item."""
    is_own_P: Tensor
    """Whether the user's history holds the item, so that the history bias is added too."""

    @staticmethod
    def of(
        histories: Sequence[np.ndarray],
        num_items: int,
        device: torch.device,
        counted_BI: "csr_array | None" = None,
        weight: float = 1.0,
    ) -> "PairScores":
        """Put the pairs of histories and of counted scores together.

        Args:
            histories: for each row, item ids, repeated or not.
            num_items: I.
            device: that of the vectors.
            counted_BI: float32, in any order and none twice; None if there are none.
            weight: of the counted scores.
        """
        rows_Q = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
        items_Q = np.concatenate([np.zeros(0, np.int64), *histories]).astype(np.int64)
        keys_P = own_P = np.unique(rows_Q * num_items + items_Q)
        if counted_BI is not None:
            counted_Q = np.repeat(np.arange(len(histories)), np.diff(counted_BI.indptr)) * num_items
            counted_Q += counted_BI.indices
            keys_P = np.union1d(own_P, counted_Q)
        counted_P = np.zeros(len(keys_P), np.float32)
        if counted_BI is not None:
            counted_P[np.searchsorted(keys_P, counted_Q)] = counted_BI.data * np.float32(weight)
        rows_P, items_P = np.divmod(keys_P, num_items)
        is_own_P = np.isin(keys_P, own_P, assume_unique=True)
        parts = (torch.from_numpy(part).to(device) for part in (rows_P, items_P, counted_P, is_own_P))
        return PairScores(num_items, *parts)

    def values(self, bias: float) -> Tensor:
        """Return what is added to the product of each pair: float32 values_P.

        Args:
            bias: added to the items of the history; -inf never recommends them.
        """
        return torch.where(self.is_own_P, self.counted_P + bias, self.counted_P)

    def at(self, values_P: Tensor, rows_Q: Tensor, items_Q: Tensor) -> Tensor:
        """Look up some pairs: values_Q, 0 for those that are not here."""
        values_Q = values_P.new_zeros(len(rows_Q))
        if len(values_P):
            keys_P, keys_Q = self._keys_P, rows_Q * self.num_items + items_Q
            places_Q = torch.searchsorted(keys_P, keys_Q).clamp(max=len(keys_P) - 1)
            values_Q = torch.where(keys_P[places_Q] == keys_Q, values_P[places_Q], values_Q)
        return values_Q

    @cached_property
    def _keys_P(self) -> Tensor:
        """One number for each pair, ascending: looked up many times while lists are made."""
        return self.rows_P * self.num_items + self.items_P

    def part(self, start: int, end: int) -> "PairScores":
        """Return the pairs of the rows from `start` up to `end`, which become the first ones."""
        first, last = torch.searchsorted(self.rows_P, torch.tensor([start, end], device=self.rows_P.device)).tolist()
        parts = (part[first:last] for part in (self.items_P, self.counted_P, self.is_own_P))
        return PairScores(self.num_items, self.rows_P[first:last] - start, *parts)
