"""A frozen Llama over packed histories: no padding, no weight gradients, and in the last block no more than is read.

`transformers` runs any decoder; this module runs the most common family several times faster where the weights are
frozen and one position per history is read:

- the histories lie one after the other in one sequence of tokens, so no product touches padding; attention alone sees
  them apart;
- queries, keys and values come from one product, gate and up from another;
- norms, rotations and activations are fused (`laser.models.packed.fused`), with backward passes that know of no weight;
- the last block computes keys and values of all tokens, and everything else for the last token of each history alone.

Shape suffixes: B histories, P packed tokens of all, H width, E half a head's width.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from laser.models.packed.attention import Packing
from laser.models.packed.fused import EAGER, Kernels, rms_norm


@dataclass(frozen=True)
class _Shape:
    heads: int
    groups: int
    head_width: int
    epsilon: float

    @property
    def rotated(self) -> int:
        """Heads that are rotated: queries and keys, which come before the values."""
        return self.heads + self.groups


def is_packable(config: PretrainedConfig) -> bool:
    """Whether `PackedLlama` computes what `transformers` computes for this configuration."""
    return (
        config.model_type == "llama"
        and config.hidden_act == "silu"
        and not config.attention_bias
        and not config.mlp_bias
    )


class PackedLlama(nn.Module):
    """Embedding, blocks and final norm of a Llama (arXiv 2302.13971), without LM head.

    Args:
        config: of `transformers`, one that `is_packable` accepts.
        dtype: of all weights.
        kernels: eager or compiled elementwise functions.
    """

    def __init__(self, config: PretrainedConfig, dtype: torch.dtype, kernels: Kernels = EAGER) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, dtype=dtype)
        self.layers = nn.ModuleList(_Block(config, dtype, kernels) for _ in range(config.num_hidden_layers))
        self.norm = _Norm(config, dtype)

    @cached_property
    def rotary(self) -> nn.Module:
        """Made at first use: inside `zero.Init` its float32 frequencies would be cast to the dtype of the weights."""
        return LlamaRotaryEmbedding(self.config)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed_tokens

    def gradient_checkpointing_enable(self, **_: Any) -> None:
        """Keep only the input of each block and recompute the rest in the backward pass."""
        self.recompute = True

    def forward(self, embeddings_PH: Tensor, packing: Packing, every_token: bool = False) -> Tensor:
        """The final hidden state of each history's last token, `hidden_BH` in the dtype of the weights.

        Args:
            embeddings_PH: input embeddings, packed.
            packing: where each history lies.
            every_token: return `hidden_PH` of all tokens; else the last block computes no more than is returned.
        """
        cos_PE, sin_PE = self.rotations(embeddings_PH, packing)
        x_PH = embeddings_PH
        for number, block in enumerate(self.layers):
            arguments = (x_PH, packing, cos_PE, sin_PE, not every_token and number == len(self.layers) - 1)
            if self.recompute and torch.is_grad_enabled():
                x_PH = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x_PH = block(*arguments)
        return self.norm(x_PH)

    def rotations(self, embeddings_PH: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """Cosines and sines of each token, half a head wide, float32."""
        cos_1PE, sin_1PE = self.rotary(embeddings_PH.new_empty(0, dtype=torch.float32), packing.position_P[None])
        half = cos_1PE.shape[-1] // 2
        return cos_1PE[0, :, :half].contiguous(), sin_1PE[0, :, :half].contiguous()

    def sources(self) -> dict[str, list[str]]:
        """Own parameter → the parameters of `transformers`' model that it is made of, one below the other."""
        names = {"embed_tokens.weight": ["embed_tokens.weight"], "norm.weight": ["norm.weight"]}
        for number in range(len(self.layers)):
            place = f"layers.{number}"
            parts = {
                "attention_norm": ["input_layernorm"],
                "query_key_value": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
                "output": ["self_attn.o_proj"],
                "mlp_norm": ["post_attention_layernorm"],
                "gate_up": ["mlp.gate_proj", "mlp.up_proj"],
                "down": ["mlp.down_proj"],
            }
            for own, theirs in parts.items():
                names[f"{place}.{own}"] = [f"{place}.{their}.weight" for their in theirs]
        return names


class _Norm(nn.Module):
    def __init__(self, config: PretrainedConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.hidden_size, dtype=dtype), requires_grad=False)
        self.epsilon = config.rms_norm_eps

    def forward(self, x_BH: Tensor) -> Tensor:
        return rms_norm(x_BH, self.weight, self.epsilon)[0]


class _Block(nn.Module):
    """One decoder block; its weights are its own, so that ZeRO-3 gathers all of them at once."""

    def __init__(self, config: PretrainedConfig, dtype: torch.dtype, kernels: Kernels) -> None:
        super().__init__()
        width, heads, groups = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
        head_width = getattr(config, "head_dim", None) or width // heads
        self.shape = _Shape(heads, groups, head_width, config.rms_norm_eps)
        self.kernels = kernels

        def frozen(*size: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*size, dtype=dtype), requires_grad=False)

        self.attention_norm = frozen(width)
        self.query_key_value = frozen((heads + 2 * groups) * head_width, width)
        self.output = frozen(width, heads * head_width)
        self.mlp_norm = frozen(width)
        self.gate_up = frozen(2 * config.intermediate_size, width)
        self.down = frozen(width, config.intermediate_size)

    def forward(self, x_PH: Tensor, packing: Packing, cos_PE: Tensor, sin_PE: Tensor, last: bool) -> Tensor:
        """The block's output at all tokens or, for the last block, at the last token of each history."""
        qkv, x_PH = _QueryKeyValue.apply(x_PH, self, cos_PE, sin_PE)
        query, key, value = qkv.split([self.shape.heads, self.shape.groups, self.shape.groups], dim=1)
        if last:
            query, x_PH = query[packing.last_B], x_PH[packing.last_B]
        return _OutputAndMLP.apply(packing.attend(query, key, value, last), x_PH, self)


class _QueryKeyValue(torch.autograd.Function):
    """Norm, the product for queries, keys and values, and the rotation of queries and keys.

    The input is handed through as the second output, so that the gradient of the residual is added in the same pass.
    """

    @staticmethod
    def forward(ctx: Any, x_PH: Tensor, block: "_Block", cos_PE: Tensor, sin_PE: Tensor) -> tuple[Tensor, Tensor]:
        normed_PH, scale_P1 = block.kernels.rms_norm(x_PH, block.attention_norm, block.shape.epsilon)
        heads = F.linear(normed_PH, block.query_key_value).unflatten(1, (-1, block.shape.head_width))
        ctx.block = block
        ctx.save_for_backward(x_PH, scale_P1, cos_PE, sin_PE)
        return block.kernels.rotate(heads, cos_PE, sin_PE, block.shape.rotated), x_PH

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        x_PH, scale_P1, cos_PE, sin_PE = ctx.saved_tensors
        block: _Block = ctx.block
        to_heads = block.kernels.rotate(gradients[0], cos_PE, -sin_PE, block.shape.rotated)
        to_normed_PH = to_heads.flatten(1) @ block.query_key_value
        to_x_PH = block.kernels.rms_norm_backward(to_normed_PH, x_PH, block.attention_norm, scale_P1, gradients[1])
        return to_x_PH, None, None, None


class _OutputAndMLP(torch.autograd.Function):
    """Output product and residual, norm, gated MLP and residual."""

    @staticmethod
    def forward(ctx: Any, attended_PH: Tensor, x_PH: Tensor, block: _Block) -> Tensor:
        middle_PH = torch.addmm(x_PH, attended_PH, block.output.T)
        normed_PH, scale_P1 = block.kernels.rms_norm(middle_PH, block.mlp_norm, block.shape.epsilon)
        gate_up = F.linear(normed_PH, block.gate_up)
        ctx.block = block
        ctx.save_for_backward(middle_PH, scale_P1, gate_up)
        return torch.addmm(middle_PH, block.kernels.swiglu(gate_up), block.down.T)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        middle_PH, scale_P1, gate_up = ctx.saved_tensors
        block: _Block = ctx.block
        gradient_PH = gradients[0]
        to_gate_up = block.kernels.swiglu_backward(gradient_PH @ block.down, gate_up)
        to_normed_PH = to_gate_up @ block.gate_up
        to_middle_PH = block.kernels.rms_norm_backward(to_normed_PH, middle_PH, block.mlp_norm, scale_P1, gradient_PH)
        return to_middle_PH @ block.output, to_middle_PH, None
