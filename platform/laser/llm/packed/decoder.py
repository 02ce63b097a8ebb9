"""A frozen decoder over packed histories: no padding, no weight gradients, and no more of the last block than is read.

`transformers` runs any decoder. This module runs the architectures of `laser.llm.packed.architectures` several times
faster, where the weights are frozen and one position of each history is read:

- The histories lie one after the other in one sequence of tokens, so no product touches padding. Attention alone sees
  them apart.
- Queries, keys and values come from one product, gate and up from another.
- Norms, rotations and activations are fused (`laser.llm.packed.fused`). Their backward passes know of no weight.
- The last block computes keys and values of all tokens, and everything else for the last token of each history alone.

Shape suffixes: B histories, P packed tokens of all, H width, M width of what a product takes, R heads that are rotated
(queries and keys), E head width or half of it.
"""

from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig

from laser.llm.packed.architectures import ARCHITECTURES, Architecture
from laser.llm.packed.attention import Attending, Packing, Scoring
from laser.llm.packed.fused import EAGER, Kernels, rms_norm
from laser.llm.packed.rotation import rotation


class PackedDecoder(nn.Module):
    """Embedding, blocks and final norm of a decoder, without LM head.

    Args:
        config: of `transformers`, one that `why_not_packed` has nothing against.
        dtype: of all weights.
        kernels: eager or compiled elementwise functions.
    """

    def __init__(self, config: PretrainedConfig, dtype: torch.dtype, kernels: Kernels = EAGER) -> None:
        super().__init__()
        self.config = config
        self.architecture = ARCHITECTURES[config.model_type]
        self.recompute, self.kernels = False, kernels
        scale = config.hidden_size**0.5 if self.architecture.scales_embeddings else None
        self.embed_tokens = _Embedding(config.vocab_size, config.hidden_size, dtype, scale)
        kinds = self.architecture.layers(config)
        self.rotation_of_block = [kind.rotation for kind in kinds]
        self.layers = nn.ModuleList(_Block(config, self.architecture, kind.scoring, dtype, kernels) for kind in kinds)
        self.norm = _Norm(config, self.architecture, dtype)

    @cached_property
    def rotary(self) -> nn.Module:
        """Made at first use: inside `zero.Init` its float32 frequencies would be cast to the dtype of the weights."""
        return self.architecture.rotary(self.config)

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the module whose output the first block receives."""
        return self.embed_tokens

    def gradient_checkpointing_enable(self, **_: Any) -> None:
        """Keep only the input of each block and recompute the rest in the backward pass."""
        self.recompute = True

    def forward(self, embeddings_PH: Tensor, packing: Packing, every_token: bool = False) -> Tensor:
        """Return the final hidden state of each history's last token, `hidden_BH` in the dtype of the weights.

        Args:
            embeddings_PH: input embeddings, packed.
            packing: where each history lies.
            every_token: return `hidden_PH` of all tokens; else the last block computes no more than is returned.
        """
        rotations = {kind: rotation(self.rotary, packing.position_P, kind) for kind in set(self.rotation_of_block)}
        x_PH = embeddings_PH
        for number, (block, kind) in enumerate(zip(self.layers, self.rotation_of_block, strict=True)):
            last = not every_token and number == len(self.layers) - 1
            arguments = (x_PH, packing.of_block(number), *rotations[kind], last)
            if self.recompute and torch.is_grad_enabled():
                x_PH = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x_PH = block(*arguments)
        return self.norm(x_PH)

    def sources(self) -> dict[str, list[str]]:
        """Map each parameter to the parameters of `transformers`' model that it is made of, one below the other."""
        names = {"embed_tokens.weight": ["embed_tokens.weight"], "norm.weight": ["norm.weight"]}
        for number in range(len(self.layers)):
            for own, theirs in self.architecture.weights.items():
                names[f"layers.{number}.{own}"] = [f"layers.{number}.{their}" for their in theirs]
        return names


class _Embedding(nn.Embedding):
    """Input embeddings, multiplied by a scale where the architecture has one."""

    def __init__(self, num_tokens: int, width: int, dtype: torch.dtype, scale: float | None) -> None:
        super().__init__(num_tokens, width, dtype=dtype)
        self.scale = scale

    def forward(self, input: Tensor) -> Tensor:
        embeddings = super().forward(input)
        if self.scale is None:
            return embeddings
        return embeddings * torch.tensor(self.scale, dtype=embeddings.dtype)  # rounded first, as `transformers` does


def _norm_weight(weight_H: Tensor, offset: float) -> Tensor:
    """Return what a norm multiplies by; the sum is float32, because bf16 would round the weight away."""
    return weight_H.float() + offset if offset else weight_H


class _Norm(nn.Module):
    """The final norm."""

    def __init__(self, config: PretrainedConfig, architecture: Architecture, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.hidden_size, dtype=dtype), requires_grad=False)
        self.epsilon, self.offset = config.rms_norm_eps, architecture.norm_offset

    def forward(self, x_BH: Tensor) -> Tensor:
        return rms_norm(x_BH, _norm_weight(self.weight, self.offset), self.epsilon)[0]


class _Block(nn.Module):
    """One decoder block; its weights are its own, so that ZeRO-3 gathers all of them at once.

    Weights that the architecture does not name are None.
    """

    attention_norm: Tensor
    query_key_value: Tensor
    query_key_value_bias: Tensor | None
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Tensor
    output_norm: Tensor | None
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor
    down_norm: Tensor | None

    def __init__(
        self,
        config: PretrainedConfig,
        architecture: Architecture,
        scoring: Scoring,
        dtype: torch.dtype,
        kernels: Kernels,
    ) -> None:
        super().__init__()
        width, self.heads, self.groups = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
        self.head_width = getattr(config, "head_dim", None) or width // self.heads
        self.epsilon, self.offset = config.rms_norm_eps, architecture.norm_offset
        self.scoring, self.kernels = scoring, kernels
        silu = getattr(config, architecture.activation) == "silu"
        self.gate = kernels.swiglu if silu else kernels.geglu
        self.gate_backward = kernels.swiglu_backward if silu else kernels.geglu_backward
        attended = self.heads * self.head_width
        all_heads = attended + 2 * self.groups * self.head_width
        sizes: dict[str, tuple[int, ...]] = {
            "attention_norm": (width,),
            "query_key_value": (all_heads, width),
            "query_key_value_bias": (all_heads,),
            "query_norm": (self.head_width,),
            "key_norm": (self.head_width,),
            "output": (width, attended),
            "output_norm": (width,),
            "mlp_norm": (width,),
            "gate_up": (2 * config.intermediate_size, width),
            "down": (width, config.intermediate_size),
            "down_norm": (width,),
        }
        assert architecture.weights.keys() <= sizes.keys()
        for name, size in sizes.items():
            weight = nn.Parameter(torch.empty(*size, dtype=dtype), requires_grad=False)
            self.register_parameter(name, weight if name in architecture.weights else None)

    def forward(self, x_PH: Tensor, packing: Attending, cos_PE: Tensor, sin_PE: Tensor, last: bool) -> Tensor:
        """Return the block's output at all tokens or, with `last`, at the last token of each history."""
        qkv, x_PH = _QueryKeyValue.apply(x_PH, self, cos_PE, sin_PE)
        query, key, value = qkv.split([self.heads, self.groups, self.groups], dim=1)
        if last:
            query, x_PH = packing.last_of(query), packing.last_of(x_PH)
        return _OutputAndMLP.apply(packing.attend(query, key, value, last, self.scoring), x_PH, self)

    def norm(self, weight_H: Tensor) -> Tensor:
        """Return what the norm with this weight multiplies by."""
        return _norm_weight(weight_H, self.offset)

    def head_norms(self) -> Tensor:
        """Return the weights weight_RE of the norms of queries and keys, head by head."""
        assert self.query_norm is not None and self.key_norm is not None
        query_E, key_E = self.norm(self.query_norm), self.norm(self.key_norm)
        return torch.cat([query_E.expand(self.heads, -1), key_E.expand(self.groups, -1)])

    def add_product(
        self, x_PM: Tensor, weight_HM: Tensor, norm_H: Tensor | None, residual_PH: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the residual plus the product, through the norm if there is one, and what the backward needs."""
        if norm_H is None:
            return torch.addmm(residual_PH, x_PM, weight_HM.T), []
        product_PH = x_PM @ weight_HM.T
        sum_PH, scale_P1 = self.kernels.add_rms_norm(product_PH, self.norm(norm_H), self.epsilon, residual_PH)
        return sum_PH, [product_PH, scale_P1]

    def add_product_backward(
        self, gradient_PH: Tensor, weight_HM: Tensor, norm_H: Tensor | None, kept: list[Tensor]
    ) -> Tensor:
        """Return the gradient of `add_product`'s first input."""
        if norm_H is not None:
            product_PH, scale_P1 = kept
            gradient_PH = self.kernels.add_rms_norm_backward(gradient_PH, product_PH, self.norm(norm_H), scale_P1)
        return gradient_PH @ weight_HM


class _QueryKeyValue(torch.autograd.Function):
    """Norm, the product for queries, keys and values, and the norm and rotation of queries and keys.

    The input is handed through as the second output, so that the gradient of the residual is added in the same pass.
    """

    @staticmethod
    def forward(ctx: Any, x_PH: Tensor, block: _Block, cos_PE: Tensor, sin_PE: Tensor) -> tuple[Tensor, Tensor]:
        # Detached: torch compiles a function once more for inputs that want a gradient.
        normed_PH, scale_P1 = block.kernels.rms_norm(x_PH.detach(), block.norm(block.attention_norm), block.epsilon)
        product = F.linear(normed_PH, block.query_key_value, block.query_key_value_bias)
        heads = product.unflatten(1, (-1, block.head_width))
        kept: tuple[Tensor, ...] = ()
        if block.query_norm is None:
            turned = block.kernels.rotate(heads, cos_PE, sin_PE, block.heads + block.groups)
        else:
            turned, scale_PR1 = block.kernels.norm_rotate(heads, block.head_norms(), block.epsilon, cos_PE, sin_PE)
            kept = (heads, scale_PR1)
        ctx.block = block
        ctx.save_for_backward(x_PH, scale_P1, cos_PE, sin_PE, *kept)
        return turned, x_PH

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        x_PH, scale_P1, cos_PE, sin_PE, *kept = ctx.saved_tensors
        block: _Block = ctx.block
        if block.query_norm is None:
            to_heads = block.kernels.rotate(gradients[0], cos_PE, -sin_PE, block.heads + block.groups)
        else:
            heads, scale_PR1 = kept
            to_heads = block.kernels.norm_rotate_backward(
                gradients[0], heads, block.head_norms(), scale_PR1, cos_PE, sin_PE
            )
        to_normed_PH = to_heads.flatten(1) @ block.query_key_value
        weight_H = block.norm(block.attention_norm)
        to_x_PH = block.kernels.rms_norm_backward(to_normed_PH, x_PH.detach(), weight_H, scale_P1, gradients[1])
        return to_x_PH, None, None, None


class _OutputAndMLP(torch.autograd.Function):
    """Output product and residual, norm, gated MLP and residual."""

    @staticmethod
    def forward(ctx: Any, attended_PM: Tensor, x_PH: Tensor, block: _Block) -> Tensor:
        middle_PH, kept_of_output = block.add_product(attended_PM, block.output, block.output_norm, x_PH)
        normed_PH, scale_P1 = block.kernels.rms_norm(middle_PH, block.norm(block.mlp_norm), block.epsilon)
        gate_up = F.linear(normed_PH, block.gate_up)
        out_PH, kept_of_down = block.add_product(block.gate(gate_up), block.down, block.down_norm, middle_PH)
        ctx.block, ctx.num_of_output = block, len(kept_of_output)
        ctx.save_for_backward(middle_PH, scale_P1, gate_up, *kept_of_output, *kept_of_down)
        return out_PH

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        middle_PH, scale_P1, gate_up, *kept = ctx.saved_tensors
        kept_of_output, kept_of_down = kept[: ctx.num_of_output], kept[ctx.num_of_output :]
        block: _Block = ctx.block
        gradient_PH = gradients[0]
        to_gated = block.add_product_backward(gradient_PH, block.down, block.down_norm, kept_of_down)
        to_normed_PH = block.gate_backward(to_gated, gate_up) @ block.gate_up
        weight_H = block.norm(block.mlp_norm)
        to_middle_PH = block.kernels.rms_norm_backward(to_normed_PH, middle_PH, weight_H, scale_P1, gradient_PH)
        to_attended_PM = block.add_product_backward(to_middle_PH, block.output, block.output_norm, kept_of_output)
        return to_attended_PM, to_middle_PH, None
