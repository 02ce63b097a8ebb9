"""eSASRec (Tikhonovich et al., RecSys 2025, arXiv 2508.06450): SASRec's training on the gated blocks of LiGR.

We deviate in two points. The softmax runs over the whole catalogue in place of sampled negatives, and the norms are RMS
norms.

Shape suffixes: B batch, N history items, C recommender width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from laser.config.families.recommenders import ESASRecConfig
from laser.models.sequences.gated import GatedBlock
from laser.recommenders.base import CausalRecommender

INITIAL_STD = 0.02
"""Of embeddings and positions, as in GPT-2 and so in our SASRec."""


class BlockRecommender(CausalRecommender):
    """Embeddings of items and positions, blocks, and a norm at the end.

    Args:
        num_items: I.
        max_history: longest history in items.
        dropout: probability, on the embeddings.
        blocks: from states_BNC to states_BNC, each causal.
        norm: of the last states; its width is C.
    """

    def __init__(
        self, num_items: int, max_history: int, dropout: float, blocks: Sequence[nn.Module], norm: nn.Module
    ) -> None:
        hidden_size = len(next(norm.parameters()))
        super().__init__(num_items, hidden_size, max_history)
        self.items, self.positions = nn.Embedding(num_items, hidden_size), nn.Embedding(max_history, hidden_size)
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=INITIAL_STD)
        self.dropout, self.layers, self.norm = nn.Dropout(dropout), nn.Sequential(*blocks), norm

    @property
    def embedding(self) -> nn.Embedding:
        return self.items

    def _read(self, embeddings_BNC: Tensor) -> Tensor:
        return self.norm(self.layers(self._placed(embeddings_BNC)))

    def _placed(self, embeddings_BNC: Tensor, first_B: Tensor | None = None) -> Tensor:
        """Add the embeddings of the places; `first_B` is the place of each row's first item, 0 by default."""
        places = torch.arange(embeddings_BNC.shape[1], device=self.device)
        places = places if first_B is None else first_B[:, None] + places
        return self.dropout(embeddings_BNC + self.positions(places))


class ESASRec(BlockRecommender):
    """eSASRec: gated blocks."""


def build(config: ESASRecConfig, num_items: int) -> ESASRec:
    """Build an untrained model from the settings of its section."""
    size, dropout = config.hidden_size, config.dropout
    blocks = [GatedBlock(size, config.num_heads, dropout) for _ in range(config.num_layers)]
    return ESASRec(num_items, config.max_history, dropout, blocks, nn.RMSNorm(size))
