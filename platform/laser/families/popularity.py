"""Popularity: everybody gets the same ranking, by the number of training interactions. Any recommender must beat it.

Shape suffixes: B batch, N history items, I catalogue items.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from laser.config.families.recommenders import PopularityConfig
from laser.recommenders.base import FittedRecommender, Items, SparseScorer
from laser.recommenders.own_items import own_parts


class Popularity(FittedRecommender, SparseScorer):
    """Popularity. Scores are counts, and the hidden state of an item is one number, log(1 + count)."""

    counts_I: Tensor

    def __init__(self, num_items: int, max_history: int) -> None:
        super().__init__(num_items, hidden_size=1, max_history=max_history)
        self.register_buffer("counts_I", torch.zeros(num_items))

    @property
    def num_statistics(self) -> int:
        return self.num_items

    def fit(self, sequences: Sequence[Items]) -> None:
        self.counts_I.copy_(torch.from_numpy(np.bincount(np.concatenate(sequences), minlength=self.num_items)))

    def encode(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        return (self.counts_I[item_ids_BN].log1p() * mask_BN)[..., None]

    def encode_without(self, item_ids_BN: Tensor, mask_BN: Tensor, own_sequences: Sequence[Items]) -> Tensor:
        counts_BN = self.counts_I[item_ids_BN]
        for own, cells, entries in own_parts(own_sequences, item_ids_BN, self.num_items):
            counts_BN[cells] -= torch.from_numpy(own.counts_E)[entries].to(counts_BN)
        return (counts_BN.log1p() * mask_BN)[..., None]

    def item_embeddings(self) -> NDArray[np.float32]:
        return self.counts_I.log1p()[:, None].cpu().numpy()

    @property
    def shared_scores(self) -> NDArray[np.float32]:
        return self.counts_I.cpu().numpy()

    def score_entries(self, item_ids_BN: Tensor, mask_BN: Tensor) -> csr_array:
        return csr_array((len(item_ids_BN), self.num_items), dtype=np.float32)


def build(config: PopularityConfig, num_items: int) -> Popularity:
    """Build an untrained model from the settings of its section."""
    return Popularity(num_items, config.max_history)
