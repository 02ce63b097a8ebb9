"""FDSA (Zhang et al., IJCAI 2019): one transformer over items and one over their features, joined by a linear layer.

The features are the items' texts as a frozen LLM reads them, one vector an item, so that the paper's attention over an
item's attributes has nothing to choose. The blocks and the loss are those of our SASRec.

Shape suffixes: B batch, N history items, C recommender width, I catalogue items, W text width.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from laser.config.families.recommenders import FDSAConfig
from laser.families.sasrec import SASRec, gpt2
from laser.recommenders.text import ReadsText, whitened_inputs


class FDSA(SASRec, ReadsText):
    """FDSA.

    Args:
        text_width: W, principal components of the text features.
        sizes: those of `SASRec`, for each of the two transformers.
    """

    text_IW: Tensor

    def __init__(self, num_items: int, text_width: int, **sizes: int | float) -> None:
        super().__init__(num_items, **sizes)  # type: ignore[arg-type]
        self.register_buffer("text_IW", torch.zeros(num_items, text_width))
        self.project = nn.Linear(text_width, self.hidden_size)
        self.text_decoder = gpt2(1, **sizes)  # type: ignore[arg-type]
        self.text_decoder.wte = None  # it reads texts alone
        self.join = nn.Linear(2 * self.hidden_size, self.hidden_size)

    def read_text(self, features_IH: NDArray[np.float32]) -> None:
        self.text_IW.copy_(whitened_inputs(features_IH, self.text_IW.shape[1]))

    def _states(self, item_ids_BN: Tensor, items_IC: Tensor | None = None) -> Tensor:
        states_BNC = super()._states(item_ids_BN, items_IC)
        texts_BNC = self.text_decoder(inputs_embeds=self.project(self.text_IW[item_ids_BN])).last_hidden_state
        return self.join(torch.cat([states_BNC, texts_BNC], dim=-1))


def build(config: FDSAConfig, num_items: int) -> FDSA:
    """Build an untrained model from the settings of its section."""
    return FDSA(num_items, config.text_width, **config.sizes)
