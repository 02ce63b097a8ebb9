"""GRU4Rec (Hidasi et al., ICLR 2016, arXiv 1511.06939): a recurrent network that predicts each next item.

We deviate in two points. The loss is the cross-entropy over the whole catalogue in place of a ranking loss over the
items of a batch, and the output layer is tied to the embeddings, as in the authors' later code.

Shape suffixes: B batch, N history items, C recommender width.
"""

from torch import Tensor, nn

from laser.config.families.recommenders import GRU4RecConfig
from laser.recommenders.base import CausalRecommender


class GRU4Rec(CausalRecommender):
    """GRU4Rec.

    Args:
        num_items: I.
        hidden_size: C.
        num_layers: layers of the GRU.
        max_history: longest history in items.
        dropout: probability, on embeddings and states.
    """

    def __init__(self, num_items: int, hidden_size: int, num_layers: int, max_history: int, dropout: float) -> None:
        super().__init__(num_items, hidden_size, max_history)
        self.items = nn.Embedding(num_items, hidden_size)
        nn.init.normal_(self.items.weight, std=hidden_size**-0.5)  # a product of two is of order 1
        self.gru = nn.GRU(hidden_size, hidden_size, num_layers, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    @property
    def embedding(self) -> nn.Embedding:
        return self.items

    def _read(self, embeddings_BNC: Tensor) -> Tensor:
        states_BNC, _ = self.gru(self.dropout(embeddings_BNC))
        return self.dropout(states_BNC)


def build(config: GRU4RecConfig, num_items: int) -> GRU4Rec:
    """Build an untrained model from the settings of its section."""
    return GRU4Rec(num_items, **config.sizes)
