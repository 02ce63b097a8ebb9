"""Popularity with decay: an interaction counts 2^(-age / half-life). What is bought now says more than what once was.

An age is counted from the last training interaction of all users. A later reference would scale all scores alike, so
the ranking holds for any later day.

Shape suffixes: B batch, N history items, I catalogue items.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from laser.config.families.recommenders import RecentPopularityConfig
from laser.errors import UserError
from laser.families.popularity import Popularity
from laser.recommenders.base import Items, ReadsDays


class RecentPopularity(Popularity, ReadsDays):
    """Popularity with decay. It is a baseline alone: nothing can be trained on its hidden states.

    Args:
        num_items: I.
        max_history: longest history in items.
        half_life_days: days after which an interaction counts half.
    """

    def __init__(self, num_items: int, max_history: int, half_life_days: float) -> None:
        super().__init__(num_items, max_history)
        self.half_life_days = half_life_days
        self._days: Sequence[NDArray[np.float64]] = ()

    def read_days(self, days: Sequence[NDArray[np.float64]]) -> None:
        self._days = days

    def fit(self, sequences: Sequence[Items]) -> None:
        days, self._days = np.concatenate(self._days), ()
        weights = 2.0 ** ((days - days.max()) / self.half_life_days)
        counts_I = np.bincount(np.concatenate(sequences), weights, minlength=self.num_items)
        # In float32, what is older than some 140 half-lives counts nothing.
        self.counts_I.copy_(torch.from_numpy(counts_I))

    def encode_without(self, item_ids_BN: Tensor, mask_BN: Tensor, own_sequences: Sequence[Items]) -> Tensor:
        """Refuse: the days of a user's interactions are not at hand when it is encoded.

        Raises:
            UserError: always.
        """
        raise UserError(
            "recommender.type: recent_popularity ranks by itself alone, because it cannot leave the training user out "
            "of what a model is trained on; name another one, such as popularity"
        )


def build(config: RecentPopularityConfig, num_items: int) -> RecentPopularity:
    """Build an untrained model from the settings of its section."""
    return RecentPopularity(num_items, config.max_history, config.half_life_days)
