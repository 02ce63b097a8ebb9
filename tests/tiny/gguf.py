"""Writes a model of `transformers` as a GGUF file, as llama.cpp's converter does: names, permuted heads, metadata."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

Change = Callable[[gguf.GGUFWriter], None]


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    tokenizer: Path,
    architecture: str,
    change: Change | None = None,
    tokenizer_keys: Mapping[str, Any] | None = None,
) -> Path:
    """Write the model with a byte-level tokenizer.

    Args:
        path: the file.
        model: of `transformers`, with an LM head.
        tokenizer: holds `tokenizer.json`.
        architecture: its name in GGUF.
        change: adds keys and tensors.
        tokenizer_keys: keys of the tokenizer to replace; None leaves one out.
    """
    config, writer = model.config, gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer, tokenizer_keys or {})
    if change is not None:
        change(writer)
    for name, weight in _tensors(model, architecture).items():
        writer.add_tensor(name, np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Path, changed: Mapping[str, Any]) -> None:
    content = json.loads((tokenizer / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    special = {token["content"] for token in content["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    keys = {"model": "gpt2", "pre": "gpt-2"} | changed
    for name, value in keys.items():
        if isinstance(value, bool):
            writer.add_bool(f"tokenizer.ggml.{name}", value)
        elif value is not None:
            writer.add_string(f"tokenizer.ggml.{name}", value)
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(number) for number in range(len(tokens))])
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    if keys["model"] == "gpt2":
        writer.add_token_merges([" ".join(merge) for merge in content["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def _tensors(model: PreTrainedModel, architecture: str) -> dict[str, NDArray[np.float32]]:
    """Return the weights under their names in GGUF."""
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names, config, tensors = gguf.get_tensor_name_map(kind, model.config.num_hidden_layers), model.config, {}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = weight.float().numpy()
        if architecture == "llama" and "q_proj" in name:
            array = _permuted(array, config.num_attention_heads)
        if architecture == "llama" and "k_proj" in name:
            array = _permuted(array, config.num_key_value_heads)
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            array = array + 1
        tensors[names.get_name(name, try_suffixes=(".weight", ".bias"))] = array
    return tensors


def _permuted(array: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Put the two halves of each head beside each other, pair by pair, as llama.cpp rotates them."""
    return array.reshape(heads, 2, len(array) // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
