"""Item-kNN over sequences: how often, and how near to one another, two items were taken by the same users.

Each ordered pair of positions of a training sequence adds 1/distance to its two items, in both directions. A repeated
item adds to itself. The count may be damped by the total counts of both items (`degree_exponent`), which lifts rare
items. It may also be damped by that of the history's item (`row_exponent`): at 1, its row is a distribution over the
other items. Neither neighbours nor similarities are cut off, because catalogues are sparse. The method goes back to
Sarwar et al. (WWW 2001). Weights by distance and decayed histories come from session-based neighbourhood methods
(Ludewig and Jannach, UMUAI 2018).

Shape suffixes: B batch, C recommender width, I catalogue items, E entries of own items, P pairs with a count.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array
from torch import Tensor

from laser.config.families.recommenders import ItemKNNConfig
from laser.recommenders.base import Items, SparseScorer
from laser.recommenders.item_item import ItemItemRecommender
from laser.recommenders.own_items import OwnItems
from laser.recommenders.scipy_private import sparse_product

FACTORED = 0.25
"""f: how far counts are damped before they are factored; at 0 rare items rank last, at 1/2 Laser ranked worse on one of
three datasets (docs/decisions/recommenders.md)."""
PAIRS_AT_ONCE = 2**22
"""Pairs that are counted, or looked up, at once: 16 bytes each, and a few times as much while they are sorted."""


@dataclass(frozen=True)
class _Scorer:
    """What scores are made of."""

    counts_II: csr_array
    """S."""
    row_I: NDArray[np.float32]
    """Damping of the history's items, D^-(a + r)."""
    column_I: NDArray[np.float32]
    """Damping of the scored items, D^-a."""


class PairCounts(ItemItemRecommender):
    """Counts of pairs: W = D^-(a + r) S D^-a, where S are the counts and D their sums by item.

    Args:
        num_items: I.
        hidden_size: C, rank of the factors that hidden states are made of.
        max_history: longest history in items; pairs further apart than this are not counted.
        history_decay: weight of an item of a history relative to the one after it.
        degree_exponent: a; 0 leaves the counts as they are.
        row_exponent: r.
    """

    row_offsets: Tensor
    columns_P: Tensor
    counts_P: Tensor
    degrees_I: Tensor

    def __init__(
        self,
        num_items: int,
        hidden_size: int,
        max_history: int,
        history_decay: float,
        degree_exponent: float,
        row_exponent: float,
    ) -> None:
        super().__init__(num_items, hidden_size, max_history, history_decay)
        self.row_exponent, self.column_exponent = degree_exponent + row_exponent, degree_exponent
        self.register_buffer("row_offsets", torch.zeros(num_items + 1, dtype=torch.int64))
        self.register_buffer("columns_P", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("counts_P", torch.zeros(0))
        self.register_buffer("degrees_I", torch.zeros(num_items))
        self._scorer_of: tuple[Tensor | None, _Scorer | None] = (None, None)

    @property
    def num_statistics(self) -> int:
        return len(self.counts_P)

    @property
    def _scorer(self) -> "_Scorer":
        """Return the buffers in the forms that scoring needs, made once for each fit."""
        of, scorer = self._scorer_of
        if scorer is None or of is not self.counts_P:
            index = np.int32 if max(len(self.counts_P), self.num_items) < 2**31 else np.int64
            parts = (self.counts_P, self.columns_P, self.row_offsets)
            data, columns, offsets = (part.cpu().numpy() for part in parts)
            size = (self.num_items, self.num_items)
            counts_II = csr_array((data, columns.astype(index), offsets.astype(index)), shape=size)
            degrees_I = self.degrees_I.clamp(min=self._smallest_count)
            row_I, column_I = (degrees_I**-power for power in (self.row_exponent, self.column_exponent))
            scorer = _Scorer(counts_II, row_I.cpu().numpy(), column_I.cpu().numpy())
            self._scorer_of = (self.counts_P, scorer)
        return scorer

    def count(self, sequences: Sequence[Items]) -> csr_array:
        """Return S of some sequences in float64, with sorted columns."""
        ordered_II = csr_array((self.num_items, self.num_items))
        for first, end in self._blocks(sequences):
            ordered_II = ordered_II + self._ordered_counts(sequences[first:end])
        counts_II = csr_array(ordered_II + ordered_II.T)
        counts_II.sort_indices()
        return counts_II

    def fit(self, sequences: Sequence[Items]) -> None:
        counts_II = self.count(sequences)
        degrees_I = counts_II.sum(axis=1)
        self.row_offsets = torch.from_numpy(counts_II.indptr.astype(np.int64))
        self.columns_P = torch.from_numpy(counts_II.indices.astype(np.int64))
        self.counts_P = torch.from_numpy(counts_II.data.astype(np.float32))
        self.degrees_I = torch.from_numpy(degrees_I.astype(np.float32))
        rows_II, columns_II = (diags_array(damping_I) for damping_I in self._damping(degrees_I))
        # The factors are those of D^-f S D^-f. In those of the counts themselves, rare items would rank last.
        counted_I = np.maximum(degrees_I, self._smallest_count)
        row_I, column_I = (counted_I ** (power - FACTORED) for power in (self.row_exponent, self.column_exponent))
        self._factorise(rows_II @ counts_II @ columns_II, row_I, column_I)

    def score_entries(self, item_ids_BN: Tensor, mask_BN: Tensor) -> csr_array:
        """Return the scores of the items that were counted with one of the history: float32 scores_BI."""
        weights_BI = self.history_weights(item_ids_BN, mask_BN)
        weights_BI.data *= self._scorer.row_I[weights_BI.indices]
        scores_BI = sparse_product(weights_BI, self._scorer.counts_II)
        if self.column_exponent:
            scores_BI.data *= self._scorer.column_I[scores_BI.indices]
        return scores_BI

    def counted_scores(self, item_ids_BN: Tensor, mask_BN: Tensor) -> csr_array:
        return self.score_entries(item_ids_BN, mask_BN)

    def factors_without(self, own: OwnItems) -> NDArray[np.float32]:
        earlier, later, counts = self._position_pairs(own.entries_P, own.owners_P)
        own_degrees_E = sum(np.bincount(ends, counts, len(own)) for ends in (earlier, later))
        numbers = own.pair_numbers(earlier, later)
        counts = np.where(earlier == later, 2 * counts, counts)  # both orders
        degrees_E = self.degrees_I[own.items_E].double().cpu().numpy()
        row_E, column_E = self._damping(degrees_E)
        row_after_E, column_after_E = self._damping(degrees_E - own_degrees_E)
        projection_EC = self.projection_IC[own.items_E].double().cpu().numpy()
        # Counts with items outside the sequence stay. Their sum is the projection of the full row without the columns
        # of the sequence. It is multiplied by the item's own damping.
        factors_EC = self.factors_IC[own.items_E].double().cpu().numpy() / np.maximum(row_E, 1e-300)[:, None]
        for part, offsets, others in own.pairs(PAIRS_AT_ONCE):
            entries = np.repeat(np.arange(part.start, part.stop), np.diff(offsets))
            before = self._scorer.counts_II[own.items_E[entries], own.items_E[others]].astype(np.float64)
            first, end = own.bounds(part)
            here = (numbers >= first) & (numbers < end)
            after = before - np.bincount(numbers[here] - first, counts[here], end - first)
            after[after < self._smallest_count / 2] = 0.0  # rounding
            size = (len(offsets) - 1, len(own))
            change = after * column_after_E[others] - before * column_E[others]
            factors_EC[part] += csr_array((change, others, offsets), shape=size) @ projection_EC
            # S is symmetric: a pair of two items changes both rows, each by the damping of the other's column.
            change = np.where(entries != others, after * column_after_E[entries] - before * column_E[entries], 0.0)
            factors_EC += csr_array((change, others, offsets), shape=size).T @ projection_EC[part]
        return (factors_EC * row_after_E[:, None]).astype(np.float32)

    @property
    def _smallest_count(self) -> float:
        """The smallest count of a pair that was seen: once, and as far apart as pairs are counted."""
        return 1.0 / self.max_history

    def _damping(self, degrees: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the damping of rows D^-(a + r) and of columns D^-a. Both are 0 for items without a count."""
        seen, degrees = degrees > self._smallest_count / 2, np.maximum(degrees, self._smallest_count)
        row, column = (np.where(seen, degrees**-power, 0.0) for power in (self.row_exponent, self.column_exponent))
        return row, column

    def _blocks(self, sequences: Sequence[Items]) -> Iterator[tuple[int, int]]:
        """Yield first and end of runs of sequences that have some `PAIRS_AT_ONCE` pairs together, or are one."""
        lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        numbers = np.cumsum(lengths * np.minimum(lengths, self.max_history)) // PAIRS_AT_ONCE
        edges = np.flatnonzero(np.diff(numbers)) + 1
        return pairwise([0, *edges.tolist(), len(sequences)])

    def _ordered_counts(self, sequences: Sequence[Items]) -> csr_array:
        """Return the counts of earlier items with later ones."""
        owners = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
        return self._ordered_pairs(np.concatenate(sequences), owners, self.num_items)

    def _ordered_pairs(self, items: NDArray[np.integer], owners: NDArray[np.integer], num_items: int) -> csr_array:
        """Return the counts of earlier items with later ones, given the items of all sequences and whose they are."""
        earlier, later, counts = self._position_pairs(items, owners)
        return csr_array((counts, (earlier, later)), shape=(num_items, num_items))

    def _position_pairs(
        self, items: NDArray[np.integer], owners: NDArray[np.integer]
    ) -> tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.float64]]:
        """Return for each pair of places of a sequence the earlier item, the later one, and 1/distance."""
        earlier, later, counts = [items[:0]], [items[:0]], [np.zeros(0)]
        for distance in range(1, self.max_history + 1):
            together = np.flatnonzero(owners[distance:] == owners[:-distance])
            if not len(together):
                break
            earlier.append(items[together])
            later.append(items[together + distance])
            counts.append(np.full(len(together), 1.0 / distance))
        return np.concatenate(earlier), np.concatenate(later), np.concatenate(counts)


class ItemKNN(PairCounts, SparseScorer):
    """Item-kNN. Its scores are the counts."""

    @property
    def shared_scores(self) -> NDArray[np.float32]:
        return np.zeros(self.num_items, dtype=np.float32)


def build(config: ItemKNNConfig, num_items: int) -> ItemKNN:
    """Build an untrained model from the settings of its section."""
    return ItemKNN(
        num_items=num_items,
        hidden_size=config.hidden_size,
        max_history=config.max_history,
        history_decay=config.history_decay,
        degree_exponent=config.degree_exponent,
        row_exponent=config.row_exponent,
    )
