"""The hybrid: items that co-occur with the history and items whose text is like it, added up without training.

A score is log(1 + b · kNN) + w · cosine. The cosine compares an item's whitened text features with the history's, which
are summed with recency weights. With the logarithm, a few co-occurrences count for much, and many for not much more.
Items without any are ranked by their text.

Shape suffixes: B batch, N history items, C recommender width, I catalogue items, W text width.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from laser.config.families.recommenders import HybridConfig
from laser.families.item_knn import PairCounts
from laser.recommenders.base import Items, recency_weights, running_sum
from laser.recommenders.text import ReadsText, whitened


class Hybrid(PairCounts, ReadsText):
    """The hybrid. Its hidden state is that of the item-kNN and, beside it, the history's text scaled to length 1.

    Multiplied with the item embeddings, the second part is the cosine. The first part is the counts in few dimensions,
    without the logarithm, because no product of vectors has one.

    Args:
        num_items: I.
        hidden_size: C, the rank of the item-kNN's factors and W.
        max_history: as for the item-kNN.
        history_decay: weight of an item of a history relative to the one after it, in both parts.
        degree_exponent: as for the item-kNN.
        row_exponent: as for the item-kNN.
        count_scale: b.
        text_weight: w.
        text_width: W, principal components of the text features; less than C.
    """

    text_IW: Tensor

    def __init__(
        self,
        num_items: int,
        hidden_size: int,
        max_history: int,
        history_decay: float,
        degree_exponent: float,
        row_exponent: float,
        count_scale: float,
        text_weight: float,
        text_width: int,
    ) -> None:
        factors = hidden_size - text_width
        super().__init__(num_items, factors, max_history, history_decay, degree_exponent, row_exponent)
        self.hidden_size = hidden_size
        self.count_scale, self.text_weight = count_scale, text_weight
        self.register_buffer("text_IW", torch.zeros(num_items, text_width))

    @property
    def blocks(self) -> tuple[int, ...]:
        factors = self.factors_IC.shape[1]
        return (factors, self.hidden_size - factors)

    def read_text(self, features_IH: NDArray[np.float32]) -> None:
        self.text_IW = torch.from_numpy(whitened(features_IH, self.text_IW.shape[1]))

    def encode(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        return self._beside_text(super().encode(item_ids_BN, mask_BN), item_ids_BN, mask_BN)

    def encode_without(self, item_ids_BN: Tensor, mask_BN: Tensor, own_sequences: Sequence[Items]) -> Tensor:
        return self._beside_text(super().encode_without(item_ids_BN, mask_BN, own_sequences), item_ids_BN, mask_BN)

    def item_embeddings(self) -> NDArray[np.float32]:
        return np.concatenate([super().item_embeddings(), self.text_IW.cpu().numpy()], axis=1)

    def scores(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        """Score as the module describes. For items of the history, a cosine above 0 counts 0: their text is its own."""
        weights_BN = recency_weights(mask_BN, self.history_decay)
        history_BW = torch.einsum("bn,bnw->bw", weights_BN, self.text_IW[item_ids_BN])
        scores_BI = F.normalize(history_BW, dim=-1) @ self.text_IW.T
        rows_P, columns_P = mask_BN.nonzero(as_tuple=True)
        own_P = (rows_P, item_ids_BN[rows_P, columns_P])
        scores_BI[own_P] = scores_BI[own_P].clamp(max=0)
        scores_BI *= self.text_weight
        counts_BI = self.score_entries(item_ids_BN, mask_BN).tocoo()
        cells_P = tuple(torch.from_numpy(cells).long().to(self.device) for cells in counts_BI.coords)
        scores_BI[cells_P] += torch.log1p(self.count_scale * torch.from_numpy(counts_BI.data).to(self.device))
        return scores_BI

    def _beside_text(self, states_BNC: Tensor, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        text_BNC = running_sum(self.text_IW[item_ids_BN], mask_BN, self.history_decay)
        return torch.cat([states_BNC, F.normalize(text_BNC, dim=-1)], dim=-1)


def build(config: HybridConfig, num_items: int) -> Hybrid:
    """Build an untrained model from the settings of its section."""
    return Hybrid(
        num_items=num_items,
        hidden_size=config.hidden_size,
        max_history=config.max_history,
        history_decay=config.history_decay,
        degree_exponent=config.degree_exponent,
        row_exponent=config.row_exponent,
        count_scale=config.count_scale,
        text_weight=config.text_weight,
        text_width=config.text_width,
    )
