"""Makes a model's configuration of the keys of its GGUF file: each is converted, without effect, or refused by name."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PretrainedConfig
from transformers.integrations import GGUF_CONFIG_MAPPING
from transformers.integrations.gguf import GGUF_CONFIG_ARCHS, get_gguf_config, read_gguf_metadata

from laser.conversion.file import GGUF
from laser.conversion.rotation import set_rotation

NAMES = {"qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe", "gpt-oss": "gpt_oss", "minimax-m2": "minimax_m2"}
"""Architectures that `transformers` lists under other names."""
EPSILONS = ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps")
FIELDS: Mapping[str, tuple[str, ...]] = {
    "context_length": ("max_position_embeddings",),  # the mapping of GPT-2 sets another field
    "feed_forward_length": ("intermediate_size", "n_inner"),
    "attention.layer_norm_rms_epsilon": EPSILONS,
    "attention.layer_norm_epsilon": EPSILONS,
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "expert_feed_forward_length": ("moe_intermediate_size",),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "expert_weights_norm": ("norm_topk_prob",),
}
"""Keys that are put into the configuration: into the first of these fields that it has."""
SHAPES = ("context_length", "feed_forward_length")
"""Keys that a configuration without such a field does without: no bound on positions, and a width that is fixed."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "feed_forward_length": (0,),  # Mamba has neither these nor heads
    "attention.head_count": (0,),
    "attention.head_count_kv": (0,),
    "ssm.dt_b_c_rms": (False,),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "embedding_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "logit_scale": (0.0, 1.0),
    "attention.scale": (0.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_shared_count": (0,),
    "expert_weights_scale": (0.0, 1.0),
    "nextn_predict_layers": (0,),
    "leading_dense_block_count": (0,),
    "swin_norm": (False,),
    "tensor_data_layout": ("Meta AI original pth", "reference"),
}
"""Values at which a key changes nothing; at others it is refused, unless `FIELDS` names it."""
LARGEST_GEMMA = {"gemma2": 46, "gemma3": 62}
"""Blocks of the 27B models, whose scores are scaled by the width of a token for each head."""
READ_APART = (
    "rope.",
    "attention.key_length",
    "attention.value_length",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "pooling_type",  # how another program makes one vector of a text
    "vocab_size",  # the embeddings have as many rows
    "use_parallel_residual",  # `transformers` sees it by the tensors
)
"""Beginnings of keys that have functions of their own, and keys that are said elsewhere in the file."""
WINDOWED = ("mistral", "phi3", "starcoder2", "gemma2", "gemma3_text", "gpt_oss")
"""Models of `transformers` whose `sliding_window` holds without any other setting."""


def converted_config(file: GGUF, config: PretrainedConfig) -> PretrainedConfig:
    """Return the configuration with all that the file says of the computation.

    Args:
        file: the opened GGUF file.
        config: as `transformers` reads it.

    Raises:
        UserError: a key changes the computation and cannot be said in this configuration.
    """
    read = dict(_read_by_transformers(file))
    for suffix, value in file.settings.items():
        if suffix.startswith(READ_APART):
            continue
        fields = [name for name in (*_names(read.get(suffix)), *FIELDS.get(suffix, ())) if hasattr(config, name)]
        if suffix not in read and value in NEUTRAL.get(suffix, ()):
            continue
        if (file.architecture, suffix, value) == ("bloom", "attention.max_alibi_bias", 8.0):  # it has no other
            continue
        if suffix == "attention.head_count_kv" and value == file.settings.get("attention.head_count"):
            continue
        if not fields and suffix not in read and suffix not in SHAPES:
            raise file.refused(file.key(suffix), value)
        for name in fields:
            if isinstance(value, bool | int | float) and isinstance(getattr(config, name), int | float | None):
                setattr(config, name, value)
    padding = getattr(config, "pad_token_id", None)
    if "padding_token_id" not in file.tokenizer and padding is not None and padding >= config.vocab_size:
        config.pad_token_id = None  # another checkpoint's, which no text reads
    _set_head_width(file, config)
    _set_window(file, config)
    set_rotation(file, config)
    return config


def refuse_lists(file: GGUF) -> None:
    """Refuse a number for each block where `transformers` takes one for all."""
    if file.architecture in GGUF_CONFIG_ARCHS:
        return
    for suffix, value in file.settings.items():
        if isinstance(value, list) and not suffix.startswith(READ_APART):
            raise file.refused(file.key(suffix), value)


def _names(name: str | None) -> tuple[str, ...]:
    return () if name in (None, "rope_theta") else (str(name),)


def _read_by_transformers(file: GGUF) -> Iterator[tuple[str, str | None]]:
    """Yield the keys that `transformers` reads itself, and the field of each; None where it has no field of its own."""
    if file.architecture in GGUF_CONFIG_ARCHS:
        metadata, names = read_gguf_metadata(str(file.path))
        noted = _Noted(metadata)
        get_gguf_config(noted, names)
        yield from ((key.removeprefix(f"{file.architecture}."), None) for key in noted.asked)
        return
    mapping = GGUF_CONFIG_MAPPING.get(NAMES.get(file.architecture, file.architecture), {})
    yield from ((suffix, name) for suffix, name in mapping.items() if name is not None)


class _Noted(dict[str, Any]):
    """A mapping that notes which of its keys were asked for."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


def _set_head_width(file: GGUF, config: PretrainedConfig) -> None:
    """Set the width of a head, and refuse values of another width or a scale of the scores that is not its root."""
    settings, heads = file.settings, file.settings.get("attention.head_count")
    if not isinstance(heads, int) or not heads or "embedding_length" not in settings or file.architecture == "gemma4":
        return
    width = settings.get("attention.key_length", settings["embedding_length"] // heads)
    if getattr(config, "head_dim", width) != width:
        config.head_dim = width
    elif not hasattr(config, "head_dim") and width != settings["embedding_length"] // heads:
        raise file.refused(file.key("attention.key_length"), width)
    if hasattr(config, "query_pre_attn_scalar"):  # no key says it; llama.cpp knows the largest models by their depth
        largest = settings.get("block_count") == LARGEST_GEMMA.get(file.architecture)
        config.query_pre_attn_scalar = settings["embedding_length"] // heads if largest else width
    if settings.get("attention.value_length", width) != width:
        raise file.refused(file.key("attention.value_length"), settings["attention.value_length"])


def _set_window(file: GGUF, config: PretrainedConfig) -> None:
    """Set the tokens that attention sees, and which blocks see no more."""
    window, context = file.settings.get("attention.sliding_window"), file.settings.get("context_length", math.inf)
    if isinstance(window, int) and 0 < window < context:
        if config.model_type not in WINDOWED:
            raise file.refused(file.key("attention.sliding_window"), window)
        config.sliding_window = window
    pattern = file.settings.get("attention.sliding_window_pattern")
    if pattern is None:
        return
    types = getattr(config, "layer_types", None)
    if types is None:
        raise file.refused(file.key("attention.sliding_window_pattern"), pattern)
    period = pattern if isinstance(pattern, int) else 0
    windowed = [bool((block + 1) % period) for block in range(len(types))] if period else pattern
    config.layer_types = ["sliding_attention" if seen else "full_attention" for seen in windowed]
