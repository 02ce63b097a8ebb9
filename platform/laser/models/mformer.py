"""M-Former: a mixture of query experts that turns a recommender's encoding of a user into an LLM prefix.

Shape suffixes: B batch, N history items, C recommender width, K experts, L virtual tokens, D width, H LLM width.

Outputs are named tuples: ZeRO-3 finds the tensors in tuples and gathers weights for their backward pass; it does not
look into dataclasses.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel


class Routing(NamedTuple):
    """Which expert handles each user, and how sure the router is."""

    gate_BNK: Tensor
    """Router probabilities of each history item, 0 at padding (Eq. 6)."""
    gate_BK: Tensor
    """Mean over the items of a history (Eq. 7); each row sums to 1."""
    expert_B: Tensor
    """The chosen expert, int64."""


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
    """The prefix of each user and how it was routed."""

    prefix_BLH: Tensor
    """Virtual tokens before the text, float32."""
    routing: Routing


class MFormer(nn.Module):
    """K query experts over one shared querying transformer (arXiv 2409.01605, section 4 of docs/method.md).

    An expert is L trainable query tokens. The chosen expert's tokens pass through Z blocks of BLIP-2's Q-Former, whose
    every `cross_attention_frequency`-th block looks at the recommender's encoding, and a linear layer maps them to the
    LLM's width.

    Choosing by argmax gives the router no gradient. As in the Switch Transformer (arXiv 2101.03961) the output is
    scaled by the chosen gate, here straight through, by gate / stop_gradient(gate): the value stays, so that the
    prefix keeps the scale of the LLM's embeddings at any K, and the gradient reaches the router. The scale acts on the
    prefix, not on the query tokens: the Q-Former begins with a layer norm, which would cancel it and its gradient.

    Args:
        recommender_width: C.
        llm_width: H.
        num_experts: K.
        num_virtual_tokens: L.
        num_layers: Z.
        hidden_size: D (the paper's d_m).
        num_heads: attention heads; divides D.
        cross_attention_frequency: cross-attention in every so many-th block, the first one included.
        dropout: probability in attention and feed-forward.
        output_std: standard deviation of the initial prefix; the LLM's input embeddings' own.
        bf16: multiply matrices in bf16; the weights stay float32, and so does the router.
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
        self.router = Router(recommender_width, num_experts)
        self.query_tokens = nn.Parameter(torch.empty(num_experts, num_virtual_tokens, hidden_size))
        self.transformer = Blip2QFormerModel(config)
        self.projection = nn.Linear(hidden_size, llm_width)
        nn.init.normal_(self.query_tokens, std=config.initializer_range)
        # The transformer ends in a layer norm, so its output has unit variance in each of its D entries.
        nn.init.normal_(self.projection.weight, std=output_std * hidden_size**-0.5)
        nn.init.zeros_(self.projection.bias)

    def forward(self, encoding_BNC: Tensor, mask_BN: Tensor) -> MFormerOutput:
        """Make the prefixes of a batch.

        Args:
            encoding_BNC: the frozen recommender's hidden states, float32, right-padded.
            mask_BN: true at real items.
        """
        mask_BN = mask_BN.bool()
        routing = self.router(encoding_BNC, mask_BN)
        query_BLD = self.query_tokens[routing.expert_B]
        with torch.autocast(encoding_BNC.device.type, torch.bfloat16, enabled=self.bf16):
            hidden_BLD = self.transformer(
                query_embeds=query_BLD, encoder_hidden_states=encoding_BNC, encoder_attention_mask=mask_BN
            ).last_hidden_state
            prefix_BLH = self.projection(hidden_BLD)
        gate_B = routing.gate_BK.gather(1, routing.expert_B[:, None])[:, 0]
        scale_B = gate_B / gate_B.detach()
        return MFormerOutput(prefix_BLH.float() * scale_B[:, None, None], routing)
