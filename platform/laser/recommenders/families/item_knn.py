"""Item-kNN over sequences: how often, and how near to one another, two items were taken by the same users.

Each ordered pair of positions of a training sequence adds 1/distance to its two items, in both directions. A repeated
item adds to itself. The count may be damped by the total counts of both items (`degree_exponent`), which lifts rare
items. It may also be damped by that of the history's item (`row_exponent`): at 1, its row is a distribution over the
other items. Neither neighbours nor similarities are cut off, because catalogues are sparse. The method goes back to
Sarwar et al. (WWW 2001). Weights by distance and decayed histories come from session-based neighbourhood methods
(Ludewig and Jannach, UMUAI 2018).

Shape suffixes: B batch, C recommender width, I catalogue items, M distinct items of a sequence, P pairs with a count.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array
from torch import Tensor

from laser.config.families.recommenders import ItemKNNConfig
from laser.recommenders.base import Items
from laser.recommenders.item_item import ItemItemRecommender


class ItemKNN(ItemItemRecommender):
    """Item-kNN with W = D^-(a + r) S D^-a, where S are the counts and D their sums by item.

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

    @property
    def num_statistics(self) -> int:
        return len(self.counts_P)

    def fit(self, sequences: Sequence[Items]) -> None:
        counts_II = csr_array((self.num_items, self.num_items))
        for items, others, weight in self._pairs(sequences):
            ordered_II = csr_array((np.full(len(items), weight), (items, others)), shape=counts_II.shape)
            counts_II = counts_II + ordered_II + ordered_II.T
        counts_II = csr_array(counts_II)
        counts_II.sort_indices()
        degrees_I = counts_II.sum(axis=1)
        self.row_offsets = torch.from_numpy(counts_II.indptr.astype(np.int64))
        self.columns_P = torch.from_numpy(counts_II.indices.astype(np.int64))
        self.counts_P = torch.from_numpy(counts_II.data.astype(np.float32))
        self.degrees_I = torch.from_numpy(degrees_I.astype(np.float32))
        rows_II, columns_II = (diags_array(damping_I) for damping_I in self._damping(degrees_I))
        self._factorise(rows_II @ counts_II @ columns_II)

    def weighted_rows(self, weights_BI: Tensor) -> Tensor:
        degrees_I = self.degrees_I.clamp(min=self._smallest_count)
        rows_P = torch.arange(self.num_items, device=self.device).repeat_interleave(self.row_offsets.diff())
        size = (self.num_items, self.num_items)
        counts_II = torch.sparse_coo_tensor(
            torch.stack([rows_P, self.columns_P]), self.counts_P, size, check_invariants=False, is_coalesced=True
        )
        damped_BI = weights_BI * degrees_I**-self.row_exponent
        return (counts_II @ damped_BI.T).T * degrees_I**-self.column_exponent  # S is symmetric

    def factors_without(self, own: Items) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        items_M, places = np.unique(own, return_inverse=True)
        own_MM = np.zeros((len(items_M), len(items_M)))
        for firsts, seconds, weight in self._pairs([places]):
            np.add.at(own_MM, (firsts, seconds), weight)
            np.add.at(own_MM, (seconds, firsts), weight)
        before_MM = self._counts(items_M)
        after_MM = before_MM - own_MM
        after_MM[after_MM < self._smallest_count / 2] = 0.0  # rounding
        degrees_M = self.degrees_I[items_M].double().cpu().numpy()
        row_M, column_M = self._damping(degrees_M)
        row_after_M, column_after_M = self._damping(degrees_M - own_MM.sum(axis=1))
        # Counts with items outside the sequence stay. Their sum is the projection of the full row without the columns
        # of the sequence. It is multiplied by the item's own damping.
        factors_MC = self.factors_IC[items_M].double().cpu().numpy() / np.maximum(row_M, 1e-300)[:, None]
        projection_MC = self.projection_IC[items_M].double().cpu().numpy()
        factors_MC += (after_MM * column_after_M - before_MM * column_M) @ projection_MC
        return items_M.astype(np.int64), (factors_MC * row_after_M[:, None]).astype(np.float32)

    @property
    def _smallest_count(self) -> float:
        """The smallest count of a pair that was seen: once, and as far apart as pairs are counted."""
        return 1.0 / self.max_history

    def _damping(self, degrees: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the damping of rows D^-(a + r) and of columns D^-a. Both are 0 for items without a count."""
        seen, degrees = degrees > self._smallest_count / 2, np.maximum(degrees, self._smallest_count)
        row, column = (np.where(seen, degrees**-power, 0.0) for power in (self.row_exponent, self.column_exponent))
        return row, column

    def _pairs(self, sequences: Sequence[NDArray[np.integer]]) -> Iterator[tuple[NDArray, NDArray, float]]:
        """Yield, for each distance, the earlier and the later items of all pairs, and the count of one pair."""
        items = np.concatenate(sequences)
        owners = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
        longest = max(map(len, sequences))
        for distance in range(1, min(longest - 1, self.max_history) + 1):
            together = owners[distance:] == owners[:-distance]
            yield items[:-distance][together], items[distance:][together], 1.0 / distance

    def _counts(self, items_M: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return the counts of all pairs of some distinct sorted items."""
        counts_MM = np.zeros((len(items_M), len(items_M)))
        for row, item in enumerate(items_M):
            start, end = self.row_offsets[item : item + 2].tolist()
            columns = self.columns_P[start:end].cpu().numpy()
            _, mine, theirs = np.intersect1d(items_M, columns, assume_unique=True, return_indices=True)
            counts_MM[row, mine] = self.counts_P[start:end].cpu().numpy()[theirs]
        return counts_MM


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
