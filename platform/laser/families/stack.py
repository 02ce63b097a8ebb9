"""The stack: two recommenders side by side, one made of statistics of pairs and one trained sequence encoder.

They make different errors. Counts know which items go together, and say nothing where nothing was counted. An encoder
generalises and blurs. A score is the fitted one's score plus w times the trained one's log-probability; a hidden state
holds those of both.

Shape suffixes: B batch, N history items, C recommender width, I catalogue items.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from laser.config.families.recommenders import StackConfig
from laser.recommenders.base import FittedRecommender, Items, TrainedRecommender
from laser.recommenders.registry import build_recommender

if TYPE_CHECKING:  # a stack may be made without scipy
    from scipy.sparse import csr_array


class Stack(FittedRecommender):
    """See the module.

    Args:
        fitted: the one made of statistics. Its part of a hidden state leaves training users out.
        trained: the encoder. It has seen what training users chose.
        trained_weight: w.
    """

    def __init__(self, fitted: FittedRecommender, trained: TrainedRecommender, trained_weight: float) -> None:
        longest = min(fitted.max_history, trained.max_history)
        super().__init__(fitted.num_items, fitted.hidden_size + trained.hidden_size, longest)
        self.fitted, self.trained, self.trained_weight = fitted, trained, trained_weight

    @property
    def blocks(self) -> tuple[int, ...]:
        return (*self.fitted.blocks, *self.trained.blocks)

    @property
    def num_statistics(self) -> int:
        return self.fitted.num_statistics

    def fit(self, sequences: Sequence[Items]) -> None:
        """Take the statistics. The encoder is trained by itself."""
        self.fitted.fit(sequences)

    def encode(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        return self._beside_trained(self.fitted.encode(item_ids_BN, mask_BN), item_ids_BN, mask_BN)

    def encode_without(self, item_ids_BN: Tensor, mask_BN: Tensor, own_sequences: Sequence[Items]) -> Tensor:
        return self._beside_trained(
            self.fitted.encode_without(item_ids_BN, mask_BN, own_sequences), item_ids_BN, mask_BN
        )

    def item_embeddings(self) -> NDArray[np.float32]:
        return np.concatenate([self.fitted.item_embeddings(), self.trained.item_embeddings()], axis=1)

    def scores(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        trained_BI = self.trained.scores(item_ids_BN, mask_BN).log_softmax(dim=-1)
        return self.fitted.scores(item_ids_BN, mask_BN) + self.trained_weight * trained_BI

    def counted_scores(self, item_ids_BN: Tensor, mask_BN: Tensor) -> "csr_array | None":
        return self.fitted.counted_scores(item_ids_BN, mask_BN)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load as torch does, but let the statistics take the sizes of the loaded ones."""
        for part in ("fitted.", "trained."):
            own = {key.removeprefix(part): value for key, value in state_dict.items() if key.startswith(part)}
            getattr(self, part.rstrip(".")).load_state_dict(own, strict, assign)

    def _beside_trained(self, states_BNC: Tensor, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        return torch.cat([states_BNC, self.trained.encode(item_ids_BN, mask_BN)], dim=-1)


def build(config: StackConfig, num_items: int) -> Stack:
    """Build an untrained model from the settings of its section, with untrained parts."""
    fitted, trained = build_recommender(config.fitted, num_items), build_recommender(config.trained, num_items)
    assert isinstance(fitted, FittedRecommender) and isinstance(trained, TrainedRecommender)
    return Stack(fitted, trained, config.trained_weight)
