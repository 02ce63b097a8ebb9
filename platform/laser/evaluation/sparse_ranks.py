"""Ranks and lists of sparse scores, by the definitions of `ranks` and `top_scores`, without a matrix of all scores.

Most items of a user have the same score as for everybody. Only the others are entries. A rank counts the entries that
reach the wanted score, and the other items by their sorted scores. So time and memory grow with the entries.

Shape suffixes: B batch, I catalogue items, P entries, Q pairs of user and item that are looked up, K items of a list.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from laser.evaluation.top_items import top_scores

if TYPE_CHECKING:  # the matrices come from scipy, which dense scores do without
    from scipy.sparse import csr_array

MAX_CELLS = 2**25
"""Users times items of a batch: at most 4 bytes each, for lists."""
LOW_BITS = np.uint64(32)
LOWEST = np.uint32(2**32 - 1)
GROUPS_OF_LIST = 3
"""Groups of a row's entries for each item of its list. More groups take longer, and leave fewer entries."""
FEW_FOR_LIST = 12
"""Of up to so many entries for each item of a list, the largest are found for all rows at once."""
FILTER_BITS = 18
"""Pairs that are looked up mark 2^18 bytes by the low bits of their numbers, which stay in the L2 cache."""


class SparseRanking:
    """Ranks users whose scores are few entries over scores that all users share.

    Args:
        shared_I: float32, the scores of items without an entry.
    """

    def __init__(self, shared_I: NDArray[np.float32]) -> None:
        assert not np.isnan(shared_I).any()
        self.shared_I = shared_I
        self._best_first = np.argsort(-shared_I, kind="stable")
        self._sorted_I = np.sort(shared_I)
        self._is_constant = bool(self._sorted_I[0] == self._sorted_I[-1])
        self._may_be_wanted = np.zeros(2**FILTER_BITS, dtype=bool)

    @property
    def max_users(self) -> int:
        """How many users may be ranked at once."""
        return max(1, MAX_CELLS // len(self.shared_I))

    def ranks(
        self,
        entries_BI: "csr_array",
        targets_B: NDArray[np.integer],
        own_items_Q: NDArray[np.integer],
        num_own_B: NDArray[np.integer],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the ranks of the targets among all items, and among all but those of the histories.

        Args:
            entries_BI: float32 scores, each place at most once and in any order.
            targets_B: the wanted items.
            own_items_Q: the items of the histories, row after row, repeated or not. A target among them ranks last.
            num_own_B: how many of them each row has.

        Raises:
            FloatingPointError: an entry is NaN.
        """
        num_users, num_items = entries_BI.shape
        num_entries_B = np.diff(entries_BI.indptr)
        if np.isnan(entries_BI.data.max(initial=-np.inf)):
            num_bad = len(np.unique(np.repeat(np.arange(num_users), num_entries_B)[np.isnan(entries_BI.data)]))
            raise FloatingPointError(f"NaN scores in {num_bad} of {num_users} rows: the model has diverged")
        starts_B = np.arange(num_users, dtype=np.int64) * num_items
        own_Q = np.sort(np.repeat(starts_B, num_own_B) + own_items_Q)
        own_Q = own_Q[np.diff(own_Q, prepend=-1) > 0]
        scores_Q = self._scores(entries_BI, np.concatenate([starts_B + targets_B, own_Q]))
        wanted_B, own_scores_Q = scores_Q[:num_users], scores_Q[num_users:]

        wanted_P = np.repeat(wanted_B, num_entries_B)
        reach_P = (entries_BI.data >= wanted_P).view(np.int8)
        ranks_B = num_items - np.searchsorted(self._sorted_I, wanted_B).astype(np.int64)
        if self._is_constant:
            ranks_B -= num_entries_B * (self._sorted_I[0] >= wanted_B)
        else:
            reach_P -= (self.shared_I[entries_BI.indices] >= wanted_P).view(np.int8)
        filled_B = num_entries_B > 0
        ranks_B[filled_B] += np.add.reduceat(reach_P, entries_BI.indptr[:-1][filled_B], dtype=np.int32)

        owners_Q, items_Q = np.divmod(own_Q, num_items)
        leaving_Q = (own_scores_Q >= wanted_B[owners_Q]) & (wanted_B[owners_Q] > -np.inf)
        masked_B = ranks_B - np.bincount(owners_Q[leaving_Q], minlength=num_users)
        masked_B[owners_Q[items_Q == targets_B[owners_Q]]] = num_items
        return ranks_B, masked_B

    def lists(self, entries_BI: "csr_array", size: int) -> NDArray[np.int64]:
        """Return the items of the best scores, in order, as `top_scores` does: lists_BK."""
        num_users, num_items = entries_BI.shape
        size = min(size, num_items)
        lists_BK = np.empty((num_users, size), dtype=np.int64)
        lists_BK[:] = self._best_first[:size]
        num_entries_B = np.diff(entries_BI.indptr)
        full_B = np.flatnonzero(num_entries_B >= size)
        kept_S = np.flatnonzero(entries_BI.data >= np.repeat(_least_in_list(entries_BI, size), num_entries_B))
        numbers_S = _in_order(entries_BI.data[kept_S], entries_BI.indices[kept_S])
        best_FK = _largest(numbers_S, np.searchsorted(kept_S, entries_BI.indptr), full_B, size)
        # Where the least of them beats every item without an entry, the list is of entries alone.
        alone_F = best_FK[:, -1] >> LOW_BITS > _in_order(self._sorted_I[-1:], np.zeros(1, np.int32))[0] >> LOW_BITS
        lists_BK[full_B[alone_F]] = LOWEST - (best_FK[alone_F] & LOWEST)
        mixed = num_entries_B > 0
        mixed[full_B[alone_F]] = False
        mixed_B = np.flatnonzero(mixed)
        if len(mixed_B):
            dense = torch.from_numpy(dense_scores(entries_BI[mixed_B], self.shared_I))
            lists_BK[mixed_B] = top_scores(dense, size).numpy()
        return lists_BK

    def _scores(self, entries_BI: "csr_array", cells_Q: NDArray[np.int64]) -> NDArray[np.float32]:
        """Look up the scores of some cells, numbered row after row."""
        num_users, num_items = entries_BI.shape
        wanted_cells, places_Q = np.unique(cells_Q, return_inverse=True)
        scores = self.shared_I[wanted_cells % num_items]
        low_bits = (1 << FILTER_BITS) - 1
        self._may_be_wanted[wanted_cells & low_bits] = True
        # `max_users` keeps the numbers of cells below 2^31.
        cells_P = np.repeat(np.arange(num_users, dtype=np.int32) * num_items, np.diff(entries_BI.indptr))
        cells_P += entries_BI.indices.astype(np.int32, copy=False)
        # wrap checks no bounds first, and is 3 times faster than raise
        maybe_P = np.flatnonzero(self._may_be_wanted.take(cells_P & low_bits, mode="wrap"))
        self._may_be_wanted[wanted_cells & low_bits] = False
        maybe_cells = cells_P[maybe_P]
        places = np.searchsorted(wanted_cells, maybe_cells).clip(max=len(wanted_cells) - 1)
        found = wanted_cells[places] == maybe_cells
        scores[places[found]] = entries_BI.data[maybe_P[found]]
        return scores[places_Q]


def _least_in_list(entries_BI: "csr_array", size: int) -> NDArray[np.float32]:
    """Return a score for each row that the entries of its list reach, and few others do; -inf where entries are few.

    As many groups of the row's entries as its list is long have a maximum that reaches it.
    """
    least_B = np.full(entries_BI.shape[0], -np.inf, dtype=np.float32)
    num_groups = GROUPS_OF_LIST * size
    offsets = entries_BI.indptr.astype(np.int64)
    long_F = np.flatnonzero(np.diff(offsets) >= num_groups)
    if len(long_F):
        lengths_F = offsets[long_F + 1] - offsets[long_F]
        edges = offsets[long_F][:, None] + lengths_F[:, None] * np.arange(num_groups + 1) // num_groups
        edges[-1, -1] -= 1  # reduceat takes no edge at the end; a maximum of fewer entries is lower, and does as well
        maxima = np.maximum.reduceat(entries_BI.data, edges.ravel()).reshape(edges.shape)[:, :num_groups]
        least_B[long_F] = np.partition(maxima, num_groups - size, axis=1)[:, num_groups - size]
    return least_B


def _in_order(scores_P: NDArray[np.float32], items_P: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Return integers in the order of the scores; of equal ones, the lowest id is the largest. The low bits hold it."""
    bits_P = (scores_P + np.float32(0.0)).view(np.uint32)  # there are two zeros
    bits_P ^= (bits_P >> 31) * np.uint32(0x7FFFFFFF) | np.uint32(1 << 31)
    ordered_P = bits_P.astype(np.uint64)
    ordered_P <<= LOW_BITS
    ordered_P |= LOWEST - items_P.astype(np.uint32)
    return ordered_P


def _largest(
    numbers_P: NDArray[np.uint64], offsets: NDArray[np.integer], rows_F: NDArray[np.int64], size: int
) -> NDArray[np.uint64]:
    """Return the largest numbers of some rows, each with at least `size`, downwards."""
    starts_F, lengths_F = offsets[rows_F], offsets[rows_F + 1] - offsets[rows_F]
    best_FK = np.empty((len(rows_F), size), dtype=np.uint64)
    places = np.arange(FEW_FOR_LIST * size)
    few_F = lengths_F <= len(places)
    padded = numbers_P.take(starts_F[few_F][:, None] + places, mode="clip")
    padded[places >= lengths_F[few_F][:, None]] = 0  # no score has so small a number
    padded.partition(len(places) - size, axis=1)
    best_FK[few_F] = padded[:, -size:]
    for row in np.flatnonzero(~few_F):
        numbers = numbers_P[starts_F[row] : starts_F[row] + lengths_F[row]]
        best_FK[row] = np.partition(numbers, len(numbers) - size)[-size:]
    best_FK.sort(axis=1)
    return best_FK[:, ::-1]


def dense_scores(entries_BI: "csr_array", shared_I: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return all scores: float32 scores_BI."""
    scores_BI = np.repeat(shared_I[None], entries_BI.shape[0], axis=0)
    rows_P = np.repeat(np.arange(entries_BI.shape[0]), np.diff(entries_BI.indptr))
    scores_BI[rows_P, entries_BI.indices] = entries_BI.data
    return scores_BI
