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
from laser.recommenders.base import last_state
from laser.recommenders.families.sasrec import SASRec
from laser.recommenders.text import ReadsText, whitened


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
        self.project = nn.Sequential(
            nn.Linear(text_width, 2 * hidden_size),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * hidden_size, hidden_size),
        )

    def read_text(self, features_IH: NDArray[np.float32]) -> None:
        white_IW = whitened(features_IH, self.text_IW.shape[1])
        # A linear layer expects unit variance in each component.
        self.text_IW.copy_(torch.from_numpy(white_IW * self.text_IW.shape[1] ** 0.5))

    def encode(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        """Return hidden states of length √C, so of unit variance. Times the item embeddings they give √C · cosine."""
        states_BNC = F.normalize(self._read(self._items(item_ids_BN)), dim=-1) * self.hidden_size**0.5
        return states_BNC * mask_BN[..., None]

    def item_embeddings(self) -> NDArray[np.float32]:
        with torch.no_grad():
            return F.normalize(self._items(), dim=-1).cpu().numpy()

    def scores(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        items_IC = self._items()
        return self._logits(last_state(self._read(items_IC[item_ids_BN]), mask_BN), items_IC)

    def loss(self, item_ids_BN: Tensor, mask_BN: Tensor, generator: torch.Generator) -> Tensor:
        del generator  # every position is predicted: nothing to draw
        items_IC, predicted_BN = self._items(), mask_BN[:, 1:]
        states_MC = self._read(items_IC[item_ids_BN[:, :-1]])[predicted_BN]
        return F.cross_entropy(self._logits(states_MC, items_IC), item_ids_BN[:, 1:][predicted_BN])

    def _items(self, item_ids_BN: Tensor | None = None) -> Tensor:
        """Return the embeddings of some items or, without ids, of all."""
        if item_ids_BN is None:
            return self.project(self.text_IW) + self.decoder.wte.weight
        return self.project(self.text_IW[item_ids_BN]) + self.decoder.wte(item_ids_BN)

    def _logits(self, states_MC: Tensor, items_IC: Tensor) -> Tensor:
        return F.normalize(states_MC, dim=-1) @ F.normalize(items_IC, dim=-1).T / self.temperature


def build(config: TextSASRecConfig, num_items: int) -> TextSASRec:
    """Build an untrained model from the settings of its section."""
    return TextSASRec(
        num_items=num_items,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        max_history=config.max_history,
        dropout=config.dropout,
        temperature=config.temperature,
        text_width=config.text_width,
    )
