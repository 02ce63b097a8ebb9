"""EASE (Steck, WWW 2019, arXiv 1905.03375): the linear item-item model with a zero diagonal, in closed form.

With G the items' co-occurrence counts over users and P = (G + λ I)^-1, the weights are B = I - P diag(P)^-1. The model
knows no order. Instead, the history is weighted by recency at prediction, as for the other item-item matrices.

Shape suffixes: B batch, C recommender width, I catalogue items, E entries of own items, M items of one sequence.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack
from scipy.sparse import csr_array
from torch import Tensor

from laser.config.families.recommenders import EASEConfig
from laser.errors import UserError
from laser.recommenders.base import Items
from laser.recommenders.item_item import ItemItemRecommender
from laser.recommenders.own_items import OwnItems

BLOCK = 1024
"""Rows of the inverse that are mirrored at once."""
CELLS_AT_ONCE = 2**21
"""Numbers that are changed at once, 8 bytes each, of whole sequences; one long sequence may have more."""


class EASE(ItemItemRecommender):
    """EASE, as the module describes it.

    Args:
        num_items: I.
        hidden_size: C, rank of the factors that hidden states are made of.
        max_history: longest history in items.
        history_decay: weight of an item of a history relative to the one after it.
        l2: λ.

    Raises:
        UserError: more items than `EASEConfig.max_items`.
    """

    weights_II: Tensor
    inverse_diagonal_I: Tensor

    def __init__(self, num_items: int, hidden_size: int, max_history: int, history_decay: float, l2: float) -> None:
        super().__init__(num_items, hidden_size, max_history, history_decay)
        if num_items > EASEConfig.max_items:
            raise UserError(
                f"recommender.type: ease inverts a matrix of {num_items} x {num_items} items, and takes at most "
                f"{EASEConfig.max_items}; use item_knn, or fewer items (data.k_core)"
            )
        self.l2 = l2
        self.register_buffer("weights_II", torch.zeros(num_items, num_items))
        self.register_buffer("inverse_diagonal_I", torch.zeros(num_items))

    @property
    def num_statistics(self) -> int:
        return self.weights_II.numel()

    def fit(self, sequences: Sequence[Items]) -> None:
        weights_II = inverse(self.gram(sequences))
        diagonal_I = weights_II.diagonal().copy()
        weights_II /= -diagonal_I
        np.fill_diagonal(weights_II, 0.0)
        self.weights_II.copy_(torch.from_numpy(weights_II))
        self.inverse_diagonal_I.copy_(torch.from_numpy(diagonal_I))
        self._factorise(weights_II)

    def gram(self, sequences: Sequence[Items]) -> NDArray[np.float64]:
        """Return G + λ I: in how many sequences each two items are."""
        users = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
        entries = (np.ones(len(users)), (users, np.concatenate(sequences)))
        taken_UI = csr_array(entries, shape=(len(sequences), self.num_items))
        taken_UI.data[:] = 1.0  # a repeated item counts once
        gram_II = (taken_UI.T @ taken_UI).toarray()
        np.fill_diagonal(gram_II, gram_II.diagonal() + self.l2)
        return gram_II

    def scores(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        weights_BI = self.history_weights(item_ids_BN, mask_BN)
        return torch.from_numpy(weights_BI @ self.weights_II.cpu().numpy()).to(self.device)

    def factors_without(self, own: OwnItems) -> NDArray[np.float32]:
        """Apply the Sherman-Morrison formula: a user adds x xᵀ to G, with x one at the user's items.

        With the change c = P x / √(1 - xᵀ P x), the inverse without the user is P + c cᵀ.
        """
        diagonal_I = self.inverse_diagonal_I.double().cpu().numpy()
        projection_IC = self.projection_IC.double().cpu().numpy()
        numbers = own.starts[1:] // max(1, CELLS_AT_ONCE // self.num_items)
        edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
        parts = [self._factors_without(own, first, end, diagonal_I, projection_IC) for first, end in pairwise(edges)]
        return np.concatenate(parts).astype(np.float32)

    def _factors_without(
        self, own: OwnItems, first: int, end: int, diagonal_I: NDArray[np.float64], projection_IC: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the rows of B of some sequences' items, times the projection, by one product for all of them."""
        bounds = own.starts[first : end + 1] - own.starts[first]
        items_E = own.items_E[own.starts[first] : own.starts[end]]
        # Behind the items' rows there is one of each sequence, for the part that is a multiple of it in all its rows.
        rows_EI = np.empty((len(items_E) + end - first, self.num_items))
        rows_EI[: len(items_E)] = self.weights_II[torch.from_numpy(items_E)].cpu().numpy()
        change_E, own_E = np.empty((2, len(items_E)))
        for sequence, (start, stop) in enumerate(pairwise(bounds)):
            items_M = items_E[start:stop]
            change_I = rows_EI[start:stop].sum(axis=0)
            change_I *= -diagonal_I
            change_I[items_M] += diagonal_I[items_M]  # P x
            change_I /= np.sqrt(1.0 - change_I[items_M].sum())
            after_I = change_I**2
            after_I += diagonal_I
            rows_EI[start:stop] *= diagonal_I / after_I
            rows_EI[len(items_E) + sequence] = change_I / after_I
            change_E[start:stop] = change_I[items_M]
            own_E[start:stop] = change_I[items_M] ** 2 / after_I[items_M]
        products = rows_EI @ projection_IC
        owners_E = np.repeat(np.arange(end - first), np.diff(bounds))
        factors_EC = products[: len(items_E)] - change_E[:, None] * products[len(items_E) :][owners_E]
        factors_EC += own_E[:, None] * projection_IC[items_E]  # the diagonal of B is zero
        return factors_EC


def inverse(matrix_II: NDArray[np.float64]) -> NDArray[np.float64]:
    """Invert a symmetric, positive definite matrix, and overwrite it.

    LAPACK inverts the triangle of its Cholesky factor: I³ operations, where solving for the identity takes 7/3 I³ and
    two more matrices.
    """
    columns_II = matrix_II.T  # the same matrix in the order of columns, as LAPACK works in place
    factor_II, failed = lapack.dpotrf(columns_II, lower=True, clean=False, overwrite_a=True)
    assert not failed, "the matrix is positive definite"
    triangle_II, failed = lapack.dpotri(factor_II, lower=True, overwrite_c=True)
    assert not failed
    upper_II: NDArray[np.float64] = triangle_II.T
    for end in range(BLOCK, len(upper_II) + BLOCK, BLOCK):
        rows = slice(end - BLOCK, end)
        upper_II[rows, rows] = np.triu(upper_II[rows, rows]) + np.triu(upper_II[rows, rows], 1).T
        upper_II[end:, rows] = upper_II[rows, end:].T
    return upper_II


def build(config: EASEConfig, num_items: int) -> EASE:
    """Build an untrained model from the settings of its section."""
    return EASE(num_items, config.hidden_size, config.max_history, config.history_decay, config.l2)
