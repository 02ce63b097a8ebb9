"""SASRec (Kang and McAuley, ICDM 2018, arXiv 1808.09781): a causal transformer that predicts each next item.

We deviate in two points. The blocks are GPT-2's of `transformers` (pre-norm, GELU, a feed-forward of four times the
width). The softmax runs over the whole catalogue in place of one sampled negative, which alone lifts SASRec above later
models (arXiv 2309.07602).

Shape suffixes: B batch, N history items, C recommender width.
"""

from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model

from laser.config.families.recommenders import SASRecConfig
from laser.recommenders.base import CausalRecommender


class SASRec(CausalRecommender):
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
        self.decoder = gpt2(num_items, hidden_size, num_layers, num_heads, max_history, dropout)

    @property
    def embedding(self) -> nn.Embedding:
        return self.decoder.wte

    def _read(self, embeddings_BNC: Tensor) -> Tensor:
        return self.decoder(inputs_embeds=embeddings_BNC).last_hidden_state


def gpt2(
    num_items: int, hidden_size: int, num_layers: int, num_heads: int, max_history: int, dropout: float
) -> GPT2Model:
    """Return GPT-2's blocks over item embeddings, untrained. The sizes are those of `SASRec`."""
    return GPT2Model(
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


def build(config: SASRecConfig, num_items: int) -> SASRec:
    """Build an untrained model from the settings of its section."""
    return SASRec(num_items, **config.sizes)
