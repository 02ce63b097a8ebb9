"""The rotation of queries and keys by position, as a GGUF file says it and as `transformers` says it."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PretrainedConfig

from laser.conversion.file import GGUF

ROPE_KEYS = (
    "type",
    "factor",
    "attn_factor",
    "original_context_length",
    "finetuned",
    "yarn_ext_factor",
    "yarn_attn_factor",
    "yarn_beta_fast",
    "yarn_beta_slow",
)


def set_rotation(file: GGUF, config: PretrainedConfig) -> None:
    """Set base, width and scaling of the rotation of queries and keys."""
    settings, parameters = file.settings, getattr(config, "rope_parameters", None)
    scaling = _scaling(file, config)
    unknown = [key for key in settings if key.startswith("rope.") and not _is_known_rotation(key)]
    if unknown:
        raise file.refused(file.key(unknown[0]), settings[unknown[0]])
    if parameters is None:
        if scaling:
            raise file.refused(file.key("rope.scaling.type"), scaling["rope_type"])
        return
    by_type = "full_attention" in parameters
    parameters = dict(parameters)
    whole = dict(parameters["full_attention"]) if by_type else parameters
    if "rope.freq_base" in settings:
        whole["rope_theta"] = settings["rope.freq_base"]
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    turned = settings.get("rope.dimension_count", width)
    if turned != int(width * (whole.get("partial_rotary_factor") or 1.0)):
        if "partial_rotary_factor" not in whole:
            raise file.refused(file.key("rope.dimension_count"), turned, f"since heads are {width} wide")
        whole["partial_rotary_factor"] = turned / width
    if scaling:
        whole |= scaling
    if by_type:
        parameters["full_attention"] = whole
        if "rope.freq_base_swa" in settings:
            parameters["sliding_attention"] = parameters["sliding_attention"] | {
                "rope_theta": settings["rope.freq_base_swa"]
            }
    elif settings.get("rope.freq_base_swa", whole["rope_theta"]) != whole["rope_theta"]:
        raise file.refused(file.key("rope.freq_base_swa"), settings["rope.freq_base_swa"])
    config.rope_parameters = parameters if by_type else whole


def _is_known_rotation(key: str) -> bool:
    if key.startswith("rope.scaling."):
        return key.removeprefix("rope.scaling.") in ROPE_KEYS
    return key in {"rope.freq_base", "rope.freq_base_swa", "rope.dimension_count", "rope.scale_linear"}


def _scaling(file: GGUF, config: PretrainedConfig) -> dict[str, Any]:
    """Return how the rotation is scaled for longer texts, as `transformers` says it; empty where it is not."""
    settings = {key.removeprefix("rope.scaling."): value for key, value in file.settings.items()}
    kind, factor = settings.get("type", "none"), settings.get("factor", 1.0)
    if "type" not in settings and "rope.scale_linear" in settings:
        kind, factor = "linear", settings["rope.scale_linear"]
    context = int(settings.get("context_length", 0))
    original = int(settings.get("original_context_length", context))
    frequencies = file.rotations.get("rope_freqs.weight")
    if frequencies is not None and (frequencies != 1.0).any():
        if kind != "none" and factor != 1.0:
            raise file.refused(file.key("rope.scaling.type"), kind, "beside rope_freqs.weight")
        return _by_frequency(file, config, frequencies, original)
    if "rope_factors_long.weight" in file.rotations:
        long, short = (file.rotations[f"rope_factors_{name}.weight"].tolist() for name in ("long", "short"))
        scaling = {"rope_type": "longrope", "long_factor": long, "short_factor": short}
        if "attn_factor" in settings:
            scaling["attention_factor"] = settings["attn_factor"]
        config.original_max_position_embeddings = original
        return {**scaling, "original_max_position_embeddings": original}
    if kind == "none" or (kind == "linear" and factor in (0.0, 1.0)):
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn" or settings.get("yarn_ext_factor", 1.0) != 1.0:
        raise file.refused(file.key("rope.scaling.type"), kind)
    attention = settings.get("attn_factor", 1.0) * settings.get("yarn_attn_factor", 1.0)
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
        "beta_fast": settings.get("yarn_beta_fast", 32.0),
        "beta_slow": settings.get("yarn_beta_slow", 1.0),
        "attention_factor": attention * (1.0 + 0.1 * math.log(factor)),
    }


def _by_frequency(file: GGUF, config: PretrainedConfig, factors: NDArray[np.float64], original: int) -> dict[str, Any]:
    """Return the scaling that divides each frequency by its factor: Llama 3's where that gives these factors."""
    factor, width = float(factors.max()), 2 * len(factors)
    base = file.settings.get("rope.freq_base", 10_000.0)
    wavelengths = 2 * math.pi * base ** (np.arange(0, width, 2) / width)
    for length in (8192, original, *(2**power for power in range(6, 21))):
        smooth = np.clip((length / wavelengths - 1.0) / 3.0, 0.0, 1.0)  # its low and high factors are always 1 and 4
        if np.allclose(1.0 / ((1.0 - smooth) / factor + smooth), factors, rtol=1e-4):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": length,
            }
    same = factors.tolist()
    scaling = {"rope_type": "longrope", "long_factor": same, "short_factor": same, "attention_factor": 1.0}
    return {**scaling, "original_max_position_embeddings": original or config.max_position_embeddings}
