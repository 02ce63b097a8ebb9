"""The base of item-kNN and EASE, which score by a matrix W over pairs of items.

A history scores the sum of its items' rows of W. The weight of a row falls by `history_decay` with each item after it.

The hidden state is that sum in few dimensions. A truncated singular value decomposition R W C ≈ U Σ Vᵀ gives each item
the factors W C V / √Σ and, as the next item, √Σ C⁻¹ V. State n is the decayed sum of the factors of items 1 … n. Its
product with √Σ C⁻¹ V approximates the scores. The diagonal matrices R and C say how much an error in a row or column
counts. Without them, the dimensions hold what is frequent, and rare items rank last. V carries the signs: for a
symmetric R W C, U are its eigenvectors, Σ the absolute eigenvalues, and V is U with the signs of the eigenvalues. All
factors are divided by one number, their root mean square, so that states are of order 1 in any unit of W.

Factors are projected rows of W. So a row without one user's sequence is projected by the same C V / √Σ. Its factors are
exact up to the basis, and one user of many hardly changes the basis.

Shape suffixes: B batch, N history items, C recommender width, I catalogue items, E entries of own items.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array, sparray
from scipy.sparse.linalg import svds
from torch import Tensor

from laser.recommenders.base import FittedRecommender, Items, recency_weights, running_sum
from laser.recommenders.own_items import OwnItems, own_parts

NEGLIGIBLE = 1e-6
"""Singular values below this fraction of the largest one are noise, and their factors are zero."""


class ItemItemRecommender(FittedRecommender):
    """A recommender with the matrix W of the module.

    Args:
        num_items: I.
        hidden_size: C, rank of the factors.
        max_history: longest history in items.
        history_decay: weight of an item relative to the one after it.
    """

    factors_IC: Tensor
    projection_IC: Tensor
    strengths_C: Tensor
    column_I: Tensor
    """C."""

    def __init__(self, num_items: int, hidden_size: int, max_history: int, history_decay: float) -> None:
        super().__init__(num_items, hidden_size, max_history)
        self.history_decay = history_decay
        self.register_buffer("factors_IC", torch.zeros(num_items, hidden_size))
        self.register_buffer("projection_IC", torch.zeros(num_items, hidden_size))
        self.register_buffer("strengths_C", torch.zeros(hidden_size))
        self.register_buffer("column_I", torch.ones(num_items))

    @abstractmethod
    def factors_without(self, own: OwnItems) -> NDArray[np.float32]:
        """Return the factors_EC of sequences' items, each as if its sequence had not been fitted."""

    def encode(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        return self._states(self.factors_IC[item_ids_BN], mask_BN)

    def encode_without(self, item_ids_BN: Tensor, mask_BN: Tensor, own_sequences: Sequence[Items]) -> Tensor:
        factors_BNC = self.factors_IC[item_ids_BN]
        for own, cells, entries in own_parts(own_sequences, item_ids_BN, self.num_items):
            factors_BNC[cells] = torch.from_numpy(self.factors_without(own))[entries].to(factors_BNC)
        return self._states(factors_BNC, mask_BN)

    def item_embeddings(self) -> NDArray[np.float32]:
        return (self.projection_IC * self.strengths_C / self.column_I.square()[:, None]).cpu().numpy()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load as torch does. Recommenders of before 2026-11-29 have no C: all columns counted alike."""
        return super().load_state_dict({"column_I": torch.ones(self.num_items), **state_dict}, strict, assign)

    def history_weights(self, item_ids_BN: Tensor, mask_BN: Tensor) -> csr_array:
        """Return the histories as weights of items: float32 weights_BI, of which those of the history are stored."""
        assert item_ids_BN.shape[1] <= self.max_history, "the caller cuts histories to max_history"
        mask = mask_BN.cpu().numpy()
        keys = (np.arange(len(mask))[:, None] * self.num_items + item_ids_BN.cpu().numpy())[mask]
        cells, places = np.unique(keys, return_inverse=True)
        weights = np.zeros(len(cells), dtype=np.float32)
        np.add.at(weights, places, recency_weights(mask_BN, self.history_decay).cpu().numpy()[mask])
        rows, items = np.divmod(cells, self.num_items)
        offsets = np.searchsorted(rows, np.arange(len(mask) + 1))
        # int32, as the statistics have: scipy copies all of a matrix whose indices are of another type.
        parts = (weights, items.astype(np.int32), offsets.astype(np.int32))
        return csr_array(parts, shape=(len(mask), self.num_items))

    def _states(self, factors_BNC: Tensor, mask_BN: Tensor) -> Tensor:
        assert factors_BNC.shape[1] <= self.max_history, "the caller cuts histories to max_history"
        return running_sum(factors_BNC, mask_BN, self.history_decay)

    def _factorise(
        self,
        matrix_II: sparray | NDArray[np.float64],
        row_I: NDArray[np.float64] | None = None,
        column_I: NDArray[np.float64] | None = None,
    ) -> None:
        """Set factors and projection from the fitted matrix W; dimensions beyond its rank are zero.

        Args:
            matrix_II: W.
            row_I: R, above 0; None counts all rows alike.
            column_I: C, above 0; None counts all columns alike.
        """
        rank = self.factors_IC.shape[1]
        weighed_II = matrix_II
        if row_I is not None and column_I is not None:
            weighed_II = diags_array(row_I) @ matrix_II @ diags_array(column_I)
        if self.num_items <= 2 * rank:
            dense_II = weighed_II if isinstance(weighed_II, np.ndarray) else weighed_II.toarray()
            _, values, right = np.linalg.svd(dense_II)
        else:
            start = np.random.default_rng(0).normal(size=self.num_items)
            _, values, right = svds(weighed_II, k=rank, v0=start)
            values, right = values[::-1], right[::-1]  # largest first
        values, right = values[:rank], right[:rank]
        kept = values > NEGLIGIBLE * max(values[0], np.finfo(np.float64).tiny)
        projection = right[kept].T / np.sqrt(values[kept])
        if column_I is not None:
            projection *= column_I[:, None]
            self.column_I = torch.from_numpy(column_I.astype(np.float32)).to(self.column_I)
        factors = matrix_II @ projection
        scale = max(float(np.sqrt(np.square(factors).sum() / (self.num_items * max(1, kept.sum())))), 1e-30)
        for buffer, content in ((self.factors_IC, factors), (self.projection_IC, projection)):
            buffer.zero_()
            buffer[:, : kept.sum()] = torch.from_numpy(np.ascontiguousarray(content / scale)).to(buffer)
        self.strengths_C.zero_()
        self.strengths_C[: kept.sum()] = torch.from_numpy(values[kept].copy()).to(self.strengths_C)
