"""What an ID-based sequential recommender is: item ids in, hidden states and next-item scores out.

Shape suffixes: B batch, N history items, C recommender width, I catalogue items.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class SequentialRecommender(nn.Module, ABC):
    """A sequence encoder over item ids whose item embeddings are also its output layer.

    Batches are right-padded: ``item_ids_BN`` int64 with any valid id at the padding, ``mask_BN`` bool, true at items,
    at least one in each row. Padding never changes the result of a row.

    Args:
        num_items: I.
        hidden_size: C, width of the hidden states.
        max_history: longest history in items; the caller cuts longer ones, keeping the most recent.
    """

    def __init__(self, num_items: int, hidden_size: int, max_history: int) -> None:
        super().__init__()
        self.num_items = num_items
        self.hidden_size = hidden_size
        self.max_history = max_history

    @property
    def device(self) -> torch.device:
        """Where the weights are, and the inputs must be."""
        return next(self.parameters()).device

    @abstractmethod
    def encode(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        """Hidden states of the sequence encoder for each item of a history, the C_u of arXiv 2409.01605.

        Returns:
            float32 encoding_BNC, zero at the padding.
        """

    @abstractmethod
    def item_vectors(self) -> NDArray[np.float32]:
        """What a last hidden state is multiplied with to score an item, exactly or nearly: vectors_IC."""

    @abstractmethod
    def scores(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        """Logits scores_BI of each catalogue item being the next one."""

    @abstractmethod
    def loss(self, item_ids_BN: Tensor, mask_BN: Tensor, generator: torch.Generator) -> Tensor:
        """Mean cross-entropy over the whole catalogue, for whole training sequences.

        Args:
            item_ids_BN: up to max_history + 1 items (the longest history and its target), at least 2 per row.
            mask_BN: true at items.
            generator: a CPU generator, the only source of random choices other than dropout.
        """


def last_state(states_BNC: Tensor, mask_BN: Tensor) -> Tensor:
    """The state of each row's last item: states_BC."""
    last_B = mask_BN.sum(dim=1) - 1
    return states_BNC[torch.arange(len(states_BNC), device=states_BNC.device), last_B]
