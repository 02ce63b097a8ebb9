"""The interface of an ID-based sequential recommender: item ids in, hidden states and next-item scores out.

Shape suffixes: B batch, N history items, C recommender width, I catalogue items, M predicted positions.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from laser.evaluation.sparse_ranks import dense_scores

if TYPE_CHECKING:  # recommenders that are trained run without scipy
    from scipy.sparse import csr_array

Items = NDArray[np.int32]


class SequentialRecommender(nn.Module, ABC):
    """A sequence encoder over item ids that also scores each item as the next one.

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
        """The device of the weights, where the inputs must be too."""
        return next(chain(self.parameters(), self.buffers())).device

    @property
    def blocks(self) -> tuple[int, ...]:
        """Widths of the parts of a hidden state. Each part has a unit of its own."""
        return (self.hidden_size,)

    @abstractmethod
    def encode(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        """Return the hidden states of the sequence encoder for each item of a history, the C_u of arXiv 2409.01605.

        Returns:
            float32 encoding_BNC, zero at the padding.
        """

    @abstractmethod
    def item_embeddings(self) -> NDArray[np.float32]:
        """Return embeddings_IC. Their product with a last hidden state is a score, exactly or nearly."""

    @abstractmethod
    def scores(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        """Return the logits scores_BI: for each catalogue item, that it is the next one."""

    def counted_scores(self, item_ids_BN: Tensor, mask_BN: Tensor) -> "csr_array | None":
        """Return exactly what the product of the first block gives nearly, in another unit: float32 scores_BI.

        Returns:
            Scores that are not 0, in any order and none twice; None where the product is exact, or no score is 0.
        """
        return None


class SparseScorer(SequentialRecommender):
    """A recommender that gives most items the same score for all users. Ranks come from the other items alone."""

    @property
    @abstractmethod
    def shared_scores(self) -> NDArray[np.float32]:
        """The scores_I of items that have no entry in a user's `score_entries`."""

    @abstractmethod
    def score_entries(self, item_ids_BN: Tensor, mask_BN: Tensor) -> "csr_array":
        """Return the float32 scores_BI that are a user's own, in any order and none twice."""

    def scores(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        entries_BI = self.score_entries(item_ids_BN, mask_BN)
        return torch.from_numpy(dense_scores(entries_BI, self.shared_scores)).to(self.device)


class TrainedRecommender(SequentialRecommender):
    """A recommender whose weights are learnt by gradient, epoch after epoch."""

    @abstractmethod
    def loss(self, item_ids_BN: Tensor, mask_BN: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean loss of whole training sequences: in most families the cross-entropy over the catalogue.

        Args:
            item_ids_BN: up to max_history + 1 items (the longest history and its target), at least 2 per row.
            mask_BN: true at items.
            generator: a CPU generator, the only source of random choices other than dropout.
        """


class CausalRecommender(TrainedRecommender):
    """A trained recommender whose state n is made of the first n items, and predicts the next one.

    The embeddings that it reads are also its output layer. Padding is on the right, so in the future of every item.
    """

    @property
    @abstractmethod
    def embedding(self) -> nn.Embedding:
        """The trained embeddings of the items."""

    @abstractmethod
    def _read(self, embeddings_BNC: Tensor) -> Tensor:
        """Return the states_BNC over the embeddings of histories."""

    def encode(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        return self._states(item_ids_BN) * mask_BN[..., None]

    def item_embeddings(self) -> NDArray[np.float32]:
        return self._items().detach().cpu().numpy()

    def scores(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        items_IC = self._items()
        return self._logits(last_state(self._states(item_ids_BN, items_IC), mask_BN), items_IC)

    def loss(self, item_ids_BN: Tensor, mask_BN: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean cross-entropy of every next item. See the base class; nothing is drawn."""
        items_IC, predicted_BN = self._items(), mask_BN[:, 1:]
        states_MC = self._states(item_ids_BN[:, :-1], items_IC)[predicted_BN]
        return F.cross_entropy(self._logits(states_MC, items_IC), item_ids_BN[:, 1:][predicted_BN])

    def losses(self, item_ids_BN: Tensor, mask_BN: Tensor, last_only: bool = False) -> Tensor:
        """Return the mean cross-entropy of each sequence over its next items, or that of its last item: losses_B."""
        items_IC, predicted_BN = self._items(), mask_BN[:, 1:]
        if last_only:
            predicted_BN = predicted_BN & ~F.pad(predicted_BN[:, 1:], (0, 1))
        states_MC = self._states(item_ids_BN[:, :-1], items_IC)[predicted_BN]
        wanted_M = item_ids_BN[:, 1:][predicted_BN]
        losses_M = F.cross_entropy(self._logits(states_MC, items_IC), wanted_M, reduction="none")
        sums_B = losses_M.new_zeros(len(mask_BN)).index_add(0, predicted_BN.nonzero()[:, 0], losses_M)
        return sums_B / predicted_BN.sum(dim=1)

    def _items(self, item_ids_BN: Tensor | None = None) -> Tensor:
        """Return the embeddings of some items or, without ids, of all."""
        return self.embedding.weight if item_ids_BN is None else self.embedding(item_ids_BN)

    def _states(self, item_ids_BN: Tensor, items_IC: Tensor | None = None) -> Tensor:
        """Return the states_BNC of histories, by the embeddings of all items where these are at hand."""
        assert item_ids_BN.shape[1] <= self.max_history, "the caller cuts histories to max_history"
        return self._read(self._items(item_ids_BN) if items_IC is None else F.embedding(item_ids_BN, items_IC))

    def _logits(self, states_MC: Tensor, items_IC: Tensor) -> Tensor:
        return states_MC @ items_IC.T


class FittedRecommender(SequentialRecommender):
    """A recommender made in closed form of statistics of the training sequences. The statistics are its buffers.

    The statistics hold the next item of every training user. A model that is trained on encodings with the answer in
    them trusts them more than it should for unseen users. So training examples are encoded without their user's
    sequence.
    """

    @abstractmethod
    def fit(self, sequences: Sequence[Items]) -> None:
        """Take the statistics of all training sequences, each with its oldest item first and at least one item."""

    @abstractmethod
    def encode_without(self, item_ids_BN: Tensor, mask_BN: Tensor, own_sequences: Sequence[Items]) -> Tensor:
        """Return what `encode` would if the sequence of each row's own user had not been fitted.

        Args:
            item_ids_BN: histories.
            mask_BN: true at items.
            own_sequences: for each row, the whole sequence of its user, which was among those given to `fit`.

        Returns:
            float32 encoding_BNC, zero at the padding.
        """

    @property
    @abstractmethod
    def num_statistics(self) -> int:
        """How many numbers were taken from the data."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load as torch does, but let the statistics take the sizes of the loaded ones."""
        for name, _ in list(self.named_buffers(recurse=False)):
            if name in state_dict:
                self.register_buffer(name, torch.empty_like(state_dict[name], device=self.device))
        return super().load_state_dict(state_dict, strict, assign)


class ReadsDays(ABC):
    """A fitted recommender that reads when its training interactions were."""

    @abstractmethod
    def read_days(self, days: Sequence[NDArray[np.float64]]) -> None:
        """Take the days since 1970 of the sequences that `fit` is given next, in their order."""


def last_state(states_BNC: Tensor, mask_BN: Tensor) -> Tensor:
    """Return the state of each row's last item: states_BC."""
    last_B = mask_BN.sum(dim=1) - 1
    return states_BNC[torch.arange(len(states_BNC), device=states_BNC.device), last_B]


def running_sum(values_BNC: Tensor, mask_BN: Tensor, decay: float) -> Tensor:
    """Sum a history's values up to each item. The weight of an item falls by `decay` with each one after it.

    Returns:
        sums_BNC, zero at the padding; sum n depends only on the values up to n.
    """
    sums, running_BC = [], torch.zeros_like(values_BNC[:, 0])
    for step in range(values_BNC.shape[1]):
        running_BC = decay * running_BC + values_BNC[:, step]
        sums.append(running_BC)
    return torch.stack(sums, dim=1) * mask_BN[..., None]


def recency_weights(mask_BN: Tensor, decay: float) -> Tensor:
    """Return each item's weight in the last of `running_sum`'s sums: float32 weights_BN, zero at the padding."""
    age_BN = mask_BN.sum(dim=1, keepdim=True) - 1 - torch.arange(mask_BN.shape[1], device=mask_BN.device)
    return decay ** age_BN.clamp(min=0).float() * mask_BN
