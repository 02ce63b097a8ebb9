"""SASRec (Kang and McAuley, ICDM 2018, arXiv 1808.09781): a causal transformer that predicts each next item.

We deviate in two points. The blocks are GPT-2's of `transformers` (pre-norm, GELU, a feed-forward of four times the
width). The softmax runs over the whole catalogue in place of one sampled negative, which alone lifts SASRec above later
models (arXiv 2309.07602).

Shape suffixes: B batch, N history items, C recommender width, I catalogue items, M predicted positions.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import GPT2Config, GPT2Model

from laser.config.families.recommenders import SASRecConfig
from laser.recommenders.base import TrainedRecommender, last_state


class SASRec(TrainedRecommender):
    """SASRec. Item embeddings are tied to the output layer.

    Args:
        num_items: I.
        hidden_size: C.
        num_layers: transformer blocks.
        num_heads: attention heads; divides hidden_size.
        max_history: longest history in items.
        dropout: probability, on embeddings, attention and both residual branches.
    """

    def __init__(
        self, num_items: int, hidden_size: int, num_layers: int, num_heads: int, max_history: int, dropout: float
    ) -> None:
        super().__init__(num_items, hidden_size, max_history)
        self.decoder = GPT2Model(
            GPT2Config(
                vocab_size=num_items,
                n_positions=max_history,
                n_embd=hidden_size,
                n_layer=num_layers,
                n_head=num_heads,
                resid_pdrop=dropout,
                embd_pdrop=dropout,
                attn_pdrop=dropout,
                bos_token_id=None,
                eos_token_id=None,
                use_cache=False,
            )
        )

    def _states(self, item_ids_BN: Tensor) -> Tensor:
        return self._read(self.decoder.wte(item_ids_BN))

    def _read(self, embeddings_BNC: Tensor) -> Tensor:
        """Return the decoder's states over given item embeddings."""
        assert embeddings_BNC.shape[1] <= self.max_history, "the caller cuts histories to max_history"
        # Right padding lies in the future of every item, so the causal mask alone keeps it out.
        return self.decoder(inputs_embeds=embeddings_BNC).last_hidden_state

    def encode(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        return self._states(item_ids_BN) * mask_BN[..., None]

    def item_embeddings(self) -> NDArray[np.float32]:
        return self.decoder.wte.weight.detach().cpu().numpy()

    def scores(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        return last_state(self._states(item_ids_BN), mask_BN) @ self.decoder.wte.weight.T

    def loss(self, item_ids_BN: Tensor, mask_BN: Tensor, generator: torch.Generator) -> Tensor:
        del generator  # every position is predicted: nothing to draw
        predicted_BN = mask_BN[:, 1:]
        states_MC = self._states(item_ids_BN[:, :-1])[predicted_BN]
        return F.cross_entropy(states_MC @ self.decoder.wte.weight.T, item_ids_BN[:, 1:][predicted_BN])

    def losses(self, item_ids_BN: Tensor, mask_BN: Tensor, last_only: bool = False) -> Tensor:
        """Return the mean cross-entropy of each sequence over its next items, or that of its last item: losses_B."""
        predicted_BN = mask_BN[:, 1:]
        if last_only:
            predicted_BN = predicted_BN & ~F.pad(predicted_BN[:, 1:], (0, 1))
        states_MC = self._states(item_ids_BN[:, :-1])[predicted_BN]
        wanted_M = item_ids_BN[:, 1:][predicted_BN]
        losses_M = F.cross_entropy(states_MC @ self.decoder.wte.weight.T, wanted_M, reduction="none")
        sums_B = losses_M.new_zeros(len(mask_BN)).index_add(0, predicted_BN.nonzero()[:, 0], losses_M)
        return sums_B / predicted_BN.sum(dim=1)


def build(config: SASRecConfig, num_items: int) -> SASRec:
    """Build an untrained model from the settings of its section."""
    return SASRec(
        num_items=num_items,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        max_history=config.max_history,
        dropout=config.dropout,
    )
