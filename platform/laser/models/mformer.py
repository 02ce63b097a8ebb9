"""M-Former: turns a recommender's encoding of a user into a prefix for the LLM, with a mixture of query experts.

Shape suffixes: B batch, N history items, C recommender width, K experts, X chosen experts of a user, Y = B · X, L
virtual tokens, D width, H LLM width.

Outputs are named tuples, because ZeRO-3 looks for tensors in tuples, but not in dataclasses. It gathers the weights for
the backward pass of the tensors that it finds.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel


class Routing(NamedTuple):
    """Holds the expert of each user and the router's probabilities."""

    gate_BNK: Tensor
    """Router probabilities of each history item, 0 at padding (Eq. 6)."""
    gate_BK: Tensor
    """Mean over the items of a history (Eq. 7); each row sums to 1."""
    expert_B: Tensor
    """The expert with the largest gate, int64; if top_k is 1, no other one is used."""


class Router(nn.Module):
    """Chooses one query expert per user (arXiv 2409.01605, Eq. 5-7).

    Args:
        recommender_width: C, the width of the frozen recommender's hidden states.
        num_experts: K.
    """

    def __init__(self, recommender_width: int, num_experts: int) -> None:
        super().__init__()
        self.score = nn.Linear(recommender_width, num_experts, bias=False)

    def forward(self, encoding_BNC: Tensor, mask_BN: Tensor) -> Routing:
        """Route users by their items' encodings; `mask_BN` is true at real items, at least one per user."""
        gate_BNK = self.score(encoding_BNC).softmax(dim=-1) * mask_BN[..., None]
        gate_BK = gate_BNK.sum(dim=1) / mask_BN.sum(dim=1, keepdim=True)  # Eq. 7: mean over real items only
        return Routing(gate_BNK=gate_BNK, gate_BK=gate_BK, expert_B=gate_BK.argmax(dim=-1))


class MFormerOutput(NamedTuple):
    """Holds the prefix of each user and its routing."""

    prefix_BLH: Tensor
    """Virtual tokens before the text, float32."""
    routing: Routing


class MFormer(nn.Module):
    """K query experts over one shared querying transformer (arXiv 2409.01605, section 4 of docs/method.md).

    An expert is L trainable query tokens. The chosen experts' tokens pass through Z blocks of BLIP-2's Q-Former. Every
    `cross_attention_frequency`-th block attends to the recommender's encoding. A linear layer maps the result to the
    LLM's width. The prefix is the mean of the outputs E_j of the `top_k` experts with the largest gates g_j, weighted
    by these gates: `Σ g_j E_j / Σ g_j`. The paper uses one expert per user.

    Choosing by argmax gives the router no gradient. As in the Switch Transformer (arXiv 2101.03961), the output is
    scaled by the chosen gate. Here this is straight through: the denominator above has no gradient. So the value keeps
    the scale of the LLM's embeddings for any K, and the gradient reaches the router. The gate scales the prefix and not
    the query tokens, because the Q-Former begins with a layer norm, which would cancel the scale and its gradient.

    Args:
        recommender_width: C.
        llm_width: H.
        num_experts: K.
        num_virtual_tokens: L.
        num_layers: Z.
        hidden_size: D (the paper's d_m).
        num_heads: attention heads; divides D.
        cross_attention_frequency: one block in this many has cross-attention, beginning with the first.
        dropout: probability in attention and feed-forward.
        output_std: std of the initial prefix, the same as that of the LLM's input embeddings.
        bf16: whether to multiply matrices in bf16. The weights and the router stay float32.
        top_k: experts per user.
        straight_through: whether the router learns from the prefix; otherwise it learns from the load balance alone.
    """

    def __init__(
        self,
        *,
        recommender_width: int,
        llm_width: int,
        num_experts: int,
        num_virtual_tokens: int,
        num_layers: int,
        hidden_size: int,
        num_heads: int,
        cross_attention_frequency: int,
        dropout: float,
        output_std: float,
        bf16: bool = False,
        top_k: int = 1,
        straight_through: bool = True,
    ) -> None:
        super().__init__()
        config = Blip2QFormerConfig(
            hidden_size=hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=4 * hidden_size,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            cross_attention_frequency=cross_attention_frequency,
            encoder_hidden_size=recommender_width,
        )
        self.bf16 = bf16
        self.top_k, self.straight_through = top_k, straight_through
        self.router = Router(recommender_width, num_experts)
        self.query_tokens = nn.Parameter(torch.empty(num_experts, num_virtual_tokens, hidden_size))
        self.transformer = Blip2QFormerModel(config)
        self.projection = nn.Linear(hidden_size, llm_width)
        nn.init.normal_(self.query_tokens, std=config.initializer_range)
        # The transformer ends in a layer norm, so its output has unit variance in each of its D entries.
        nn.init.normal_(self.projection.weight, std=output_std * hidden_size**-0.5)
        nn.init.zeros_(self.projection.bias)

    def forward(self, encoding_BNC: Tensor, mask_BN: Tensor, top_k: int | None = None) -> MFormerOutput:
        """Make the prefixes of a batch.

        Args:
            encoding_BNC: the frozen recommender's hidden states, float32, right-padded.
            mask_BN: true at real items.
            top_k: experts per user; None takes the model's own number.
        """
        mask_BN = mask_BN.bool()
        routing = self.router(encoding_BNC, mask_BN)
        experts = min(top_k or self.top_k, len(self.query_tokens))
        expert_BX = routing.expert_B[:, None] if experts == 1 else routing.gate_BK.topk(experts, dim=1).indices
        gate_BX = routing.gate_BK.gather(1, expert_BX)
        if not self.straight_through:
            gate_BX = gate_BX.detach()
        # Not by indexing: its gradient is summed by several threads in an order that differs from run to run.
        query_YLD = F.embedding(expert_BX.flatten(), self.query_tokens.flatten(1)).unflatten(
            1, self.query_tokens.shape[1:]
        )
        if experts > 1:  # each user's experts follow one another
            encoding_BNC, mask_BN = (x.repeat_interleave(experts, dim=0) for x in (encoding_BNC, mask_BN))
        with torch.autocast(encoding_BNC.device.type, torch.bfloat16, enabled=self.bf16):
            hidden_YLD = self.transformer(
                query_embeds=query_YLD, encoder_hidden_states=encoding_BNC, encoder_attention_mask=mask_BN
            ).last_hidden_state
            output_YLH = self.projection(hidden_YLD)
        weight_BX = gate_BX / gate_BX.sum(dim=1, keepdim=True).detach()
        output_YLH = output_YLH.float() * weight_BX.flatten()[:, None, None]
        prefix_BLH = output_YLH if experts == 1 else output_YLH.unflatten(0, (-1, experts)).sum(dim=1)
        return MFormerOutput(prefix_BLH, routing)
