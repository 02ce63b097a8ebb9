"""SASRec over text and ids: an item is a projection of its whitened text features plus an embedding of its own.

This is UniSRec's transductive variant (KDD 2022) without its pre-training over several domains. The features of a
frozen LLM pass through a small network, and the embedding of the id is added. The result is both the input and the
output embedding of an item. The score is a cosine over a temperature.

Shape suffixes: B batch, N history items, C recommender width, I catalogue items, M predicted positions, W text width.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from laser.config.families.recommenders import TextSASRecConfig
from laser.families.sasrec import SASRec
from laser.recommenders.text import ReadsText, whitened_inputs


class TextSASRec(SASRec, ReadsText):
    """SASRec over text and ids, as the module describes it.

    Args:
        num_items: I.
        hidden_size: C.
        num_layers: transformer blocks.
        num_heads: attention heads; divides hidden_size.
        max_history: longest history in items.
        dropout: probability, on embeddings, attention, both residual branches, and inside the text's network.
        temperature: τ, of the cosine.
        text_width: W, principal components of the text features.
    """

    text_IW: Tensor

    def __init__(
        self,
        num_items: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        max_history: int,
        dropout: float,
        temperature: float,
        text_width: int,
    ) -> None:
        super().__init__(num_items, hidden_size, num_layers, num_heads, max_history, dropout)
        self.temperature = temperature
        self.register_buffer("text_IW", torch.zeros(num_items, text_width))
        self.project: nn.Module = nn.Sequential(
            nn.Linear(text_width, 2 * hidden_size),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * hidden_size, hidden_size),
        )

    def read_text(self, features_IH: NDArray[np.float32]) -> None:
        self.text_IW.copy_(whitened_inputs(features_IH, self.text_IW.shape[1]))

    def encode(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        """Return hidden states of length √C, so of unit variance. Times the item embeddings they give √C · cosine."""
        return F.normalize(super().encode(item_ids_BN, mask_BN), dim=-1) * self.hidden_size**0.5

    def item_embeddings(self) -> NDArray[np.float32]:
        with torch.no_grad():
            return F.normalize(self._items(), dim=-1).cpu().numpy()

    def _items(self, item_ids_BN: Tensor | None = None) -> Tensor:
        return self._texts(item_ids_BN) + super()._items(item_ids_BN)

    def _texts(self, item_ids_BN: Tensor | None) -> Tensor:
        return self.project(self.text_IW if item_ids_BN is None else self.text_IW[item_ids_BN])

    def _logits(self, states_MC: Tensor, items_IC: Tensor) -> Tensor:
        return F.normalize(states_MC, dim=-1) @ F.normalize(items_IC, dim=-1).T / self.temperature


def build(config: TextSASRecConfig, num_items: int) -> TextSASRec:
    """Build an untrained model from the settings of its section."""
    return TextSASRec(num_items, **config.sizes, temperature=config.temperature, text_width=config.text_width)
