"""BERT4Rec (Sun et al., CIKM 2019, arXiv 1904.06690): a bidirectional transformer trained to fill in masked items.

To predict the next item, [MASK] is appended to the history. As in the original, some training sequences are masked only
at their last item, because inference asks for that. BERT4Rec needs many more epochs than SASRec (arXiv 2207.07483).

Shape suffixes: B batch, N history items, C recommender width, I catalogue items, M masked positions.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import BertConfig, BertModel
from transformers.models.bert.modeling_bert import BertPredictionHeadTransform

from laser.config.families.recommenders import Bert4RecConfig
from laser.recommenders.base import TrainedRecommender, last_state


class BERT4Rec(TrainedRecommender):
    """BERT4Rec. Item embeddings are tied to the output layer, which adds a bias for each item.

    Args:
        num_items: I; the id of [MASK] is I.
        hidden_size: C.
        num_layers: transformer blocks.
        num_heads: attention heads; divides hidden_size.
        max_history: longest history in items, without the appended [MASK].
        dropout: probability, on embeddings, attention and both residual branches.
        mask_probability: share of the items hidden in a training sequence; at least one is.
        last_item_probability: share of the training sequences in which only the last item is hidden.
    """

    def __init__(
        self,
        num_items: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        max_history: int,
        dropout: float,
        mask_probability: float,
        last_item_probability: float,
    ) -> None:
        super().__init__(num_items, hidden_size, max_history)
        self.mask_probability = mask_probability
        self.last_item_probability = last_item_probability
        config = BertConfig(
            vocab_size=num_items + 1,
            hidden_size=hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=4 * hidden_size,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            max_position_embeddings=max_history + 1,
            type_vocab_size=1,
            pad_token_id=None,  # its default, 0, would keep item 0 from being learnt
        )
        self.encoder = BertModel(config, add_pooling_layer=False)
        self.transform = BertPredictionHeadTransform(config)
        self.output_bias_I = nn.Parameter(torch.zeros(num_items))

    def _states(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        return self.encoder(input_ids=item_ids_BN, attention_mask=mask_BN).last_hidden_state

    def _logits(self, states_MC: Tensor) -> Tensor:
        items_IC = self.encoder.embeddings.word_embeddings.weight[: self.num_items]
        return F.linear(self.transform(states_MC), items_IC, self.output_bias_I)

    def encode(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        """Return the hidden states of the history itself, without an appended [MASK]. See the base class."""
        assert item_ids_BN.shape[1] <= self.max_history, "the caller cuts histories to max_history"
        return self._states(item_ids_BN, mask_BN) * mask_BN[..., None]

    def item_embeddings(self) -> NDArray[np.float32]:
        """Return the output layer without its bias. It scores nearly, because a score is read at an appended [MASK]."""
        return self.encoder.embeddings.word_embeddings.weight[: self.num_items].detach().cpu().numpy()

    def scores(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        assert item_ids_BN.shape[1] <= self.max_history, "the caller cuts histories to max_history"
        end_B1 = mask_BN.sum(dim=1, keepdim=True)
        item_ids_BN = F.pad(item_ids_BN, (0, 1)).scatter(1, end_B1, self.num_items)
        mask_BN = F.pad(mask_BN, (0, 1)).scatter(1, end_B1, True)
        return self._logits(last_state(self._states(item_ids_BN, mask_BN), mask_BN))

    def loss(self, item_ids_BN: Tensor, mask_BN: Tensor, generator: torch.Generator) -> Tensor:
        hidden_BN = self._hidden(mask_BN.cpu(), generator).to(mask_BN.device)
        states_BNC = self._states(item_ids_BN.masked_fill(hidden_BN, self.num_items), mask_BN)
        return F.cross_entropy(self._logits(states_BNC[hidden_BN]), item_ids_BN[hidden_BN])

    def _hidden(self, mask_BN: Tensor, generator: torch.Generator) -> Tensor:
        """Draw which items to hide: bool hidden_BN, at least one in each row."""
        draw_BN = torch.rand(mask_BN.shape, generator=generator).masked_fill(~mask_BN, torch.inf)
        lowest_B1 = draw_BN.argmin(dim=1, keepdim=True)
        hidden_BN = (draw_BN < self.mask_probability).scatter(1, lowest_B1, True)
        last_BN = torch.zeros_like(mask_BN).scatter(1, mask_BN.sum(dim=1, keepdim=True) - 1, True)
        last_alone_B1 = torch.rand((len(mask_BN), 1), generator=generator) < self.last_item_probability
        return torch.where(last_alone_B1, last_BN, hidden_BN)


def build(config: Bert4RecConfig, num_items: int) -> BERT4Rec:
    """Build an untrained model from the settings of its section."""
    return BERT4Rec(
        num_items,
        **config.sizes,
        mask_probability=config.mask_probability,
        last_item_probability=config.last_item_probability,
    )
