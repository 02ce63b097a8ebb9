"""Table 3: trainable parameters of three ways to tune a language model, counted on its shapes without its weights."""

from pathlib import Path

import torch
from transformers import AutoModel, LlamaConfig, PretrainedConfig

from laser.config.schema import Experiment
from laser.conversion.source import resolve_llm
from laser.llm.loading import llm_config
from laser.models.laser import build_laser
from laser.reproduction.paper import read_paper

LORA_RANK = 8
PAPER_PREFIX = 32


def count_parameters(config: Experiment) -> dict[str, int]:
    """Parameters trained by `full` fine-tuning, `qlora`, `bituning` (free prefix of 32, suffix) and our `laser`.

    Args:
        config: names the LLM; Laser is counted with its M-Former as the config has it.

    Raises:
        UserError: there is no such LLM.
    """
    directory = resolve_llm(config.llm.source, Path(config.cache_dir).expanduser())
    llm = llm_config(directory, config.llm.num_layers, config.llm.trust_remote_code)
    return count_of(llm, config)


def count_of(llm_of: PretrainedConfig, config: Experiment) -> dict[str, int]:
    """Count as `count_parameters` does, for the configuration of an LLM."""
    decoder = llm_of.get_text_config()
    with torch.device("meta"):
        llm = AutoModel.from_config(llm_of)
        laser = build_laser(config, llm, getattr(config.recommender, "hidden_size", 1), 1.0)
    width, heads = decoder.hidden_size, decoder.num_attention_heads
    head_width = getattr(decoder, "head_dim", None) or width // heads
    key_heads = getattr(decoder, "num_key_value_heads", None) or heads
    lora = LORA_RANK * (width + heads * head_width) + LORA_RANK * (width + key_heads * head_width)
    return {
        "full": sum(weight.numel() for weight in llm.parameters()),
        "qlora": lora * decoder.num_hidden_layers,
        "bituning": (PAPER_PREFIX + 1) * width,
        "laser": sum(weight.numel() for weight in laser.trainable_parameters().values()),
    }


def paper_size_parameters(config: Experiment) -> dict[str, int]:
    """Parameters of Bi-Tuning and Laser beside a model of the paper's width (ChatGLM2-6B: 4096)."""
    width = read_paper().model["width"]
    llm = LlamaConfig(hidden_size=width, num_hidden_layers=1, num_attention_heads=32, intermediate_size=width)
    counts = count_of(llm, config)
    return {name: counts[name] for name in ("bituning", "laser")}
