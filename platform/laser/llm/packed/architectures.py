"""What differs between the decoders that run packed: one record for each architecture.

A block of `laser.llm.packed.decoder` is a Llama's: norm, attention, residual, norm, gated MLP, residual. A record
says what its architecture adds to that or computes otherwise. `docs/recipes/decoder.md` tells how to add one.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn
from transformers import PretrainedConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.mistral.modeling_mistral import MistralRotaryEmbedding
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

from laser.llm.packed.attention import Scoring

ROPE_TYPES = ("default", "linear", "llama3", "yarn")
"""Rotations that depend on a token's position alone; `dynamic` and `longrope` depend on the longest history too."""
ACTIVATIONS = ("silu", "gelu_pytorch_tanh")
"""Activations of the gated MLP that `laser.llm.packed.fused` has."""
REFUSED = ("attention_bias", "mlp_bias", "attn_logit_softcapping", "use_bidirectional_attention")
"""Settings of `transformers` that no packed block computes."""

LLAMA_WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "attention_norm": ("input_layernorm.weight",),
    "query_key_value": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "output": ("self_attn.o_proj.weight",),
    "mlp_norm": ("post_attention_layernorm.weight",),
    "gate_up": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "down": ("mlp.down_proj.weight",),
}
HEAD_NORMS: Mapping[str, tuple[str, ...]] = {
    "query_norm": ("self_attn.q_norm.weight",),
    "key_norm": ("self_attn.k_norm.weight",),
}
BIASES: Mapping[str, tuple[str, ...]] = {
    "query_key_value_bias": ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
}
GEMMA_NORMS: Mapping[str, tuple[str, ...]] = {
    "output_norm": ("post_attention_layernorm.weight",),
    "mlp_norm": ("pre_feedforward_layernorm.weight",),
    "down_norm": ("post_feedforward_layernorm.weight",),
}


class LayerKind(NamedTuple):
    """What may differ between the blocks of one decoder."""

    scoring: Scoring
    rotation: str | None
    """The type of layer whose rotation the block uses; None where all blocks have the same."""


def see_all(config: PretrainedConfig) -> list[int | None]:
    """Return the window of each block where none has one."""
    return [None] * config.num_hidden_layers


def one_window(config: PretrainedConfig) -> list[int | None]:
    """Return the window of each block where all have the same, or none has one."""
    return [config.sliding_window] * config.num_hidden_layers


def window_by_layer_type(config: PretrainedConfig) -> list[int | None]:
    """Return the window of each block from the list of their types."""
    return [config.sliding_window if kind == "sliding_attention" else None for kind in config.layer_types]


@dataclass(frozen=True)
class Architecture:
    """Where an architecture departs from the Llama, which the defaults describe."""

    rotary: type[nn.Module]
    """Makes the cosines and sines; `transformers`' own class, so that scaled rotations are its own too."""
    weights: Mapping[str, tuple[str, ...]]
    """Each parameter of a packed block, and the names of those in `transformers`' block that it is made of.

    These make a block compute more where they are named: `query_key_value_bias` is added to queries, keys and values;
    `query_norm` and `key_norm` norm each head before the rotation; `output_norm` and `down_norm` norm what attention
    and MLP add to the residual.
    """
    windows: Callable[[PretrainedConfig], list[int | None]] = see_all
    """Tokens that each block's attention sees; see `Scoring.window`."""
    activation: str = "hidden_act"
    """The setting that names the activation of the gated MLP."""
    norm_offset: float = 0.0
    """Added to the weight of every norm."""
    scales_embeddings: bool = False
    """Whether the embedding module multiplies by the root of the decoder's width."""
    query_scalar: str | None = None
    """The setting whose inverse root scales the scores; None means the head's width."""
    rotation_by_layer_type: bool = False
    """Whether `rope_parameters` has an entry for each type of layer."""

    def layers(self, config: PretrainedConfig) -> list[LayerKind]:
        """Return what differs between the blocks, in their order."""
        scale = None if self.query_scalar is None else getattr(config, self.query_scalar) ** -0.5
        rotations = config.layer_types if self.rotation_by_layer_type else [None] * config.num_hidden_layers
        windows = self.windows(config)
        return [
            LayerKind(Scoring(window, scale), rotation) for window, rotation in zip(windows, rotations, strict=True)
        ]


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(LlamaRotaryEmbedding, LLAMA_WEIGHTS),
    "mistral": Architecture(MistralRotaryEmbedding, LLAMA_WEIGHTS, windows=one_window),
    "qwen2": Architecture(Qwen2RotaryEmbedding, {**LLAMA_WEIGHTS, **BIASES}, windows=window_by_layer_type),
    "qwen3": Architecture(Qwen3RotaryEmbedding, {**LLAMA_WEIGHTS, **HEAD_NORMS}, windows=window_by_layer_type),
    "gemma3_text": Architecture(
        Gemma3RotaryEmbedding,
        {**LLAMA_WEIGHTS, **HEAD_NORMS, **GEMMA_NORMS},
        windows=window_by_layer_type,
        activation="hidden_activation",
        norm_offset=1.0,
        scales_embeddings=True,
        query_scalar="query_pre_attn_scalar",
        rotation_by_layer_type=True,
    ),
}
"""By `model_type` of `transformers`' configuration. Tests run over all entries."""


def why_not_packed(config: PretrainedConfig) -> str | None:
    """Return why this configuration does not run packed; None means that it does."""
    if config.model_type not in ARCHITECTURES:
        return f"it runs {', '.join(ARCHITECTURES)}"
    return next(_obstacles(config, ARCHITECTURES[config.model_type]), None)


def _obstacles(config: PretrainedConfig, architecture: Architecture) -> Iterator[str]:
    """Yield what the packed decoder cannot express of this configuration."""
    for name in REFUSED:
        if getattr(config, name, None):
            yield f"it has no {name}"
    if not getattr(config, "is_causal", True):
        yield "it reads forwards alone, and is_causal is false"
    activation = getattr(config, architecture.activation)
    if activation not in ACTIVATIONS:
        yield f"it has no activation {activation}"
    by_layer_type = architecture.rotation_by_layer_type
    for parameters in config.rope_parameters.values() if by_layer_type else [config.rope_parameters]:
        if parameters["rope_type"] not in ROPE_TYPES:
            yield f"it has no rope_type {parameters['rope_type']}"
        if parameters.get("partial_rotary_factor") not in {None, 1.0}:
            yield "it rotates whole heads, and partial_rotary_factor is below 1"
    if architecture.windows is window_by_layer_type:
        for kind in config.layer_types:
            if kind not in {"full_attention", "sliding_attention"}:
                yield f"it has no layers of type {kind}"
