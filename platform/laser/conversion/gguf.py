"""Converts a GGUF file to what `transformers` saves: configuration, bf16 safetensors and tokenizer.

`transformers` reads the weights. It passes over keys and tensors that it does not know, and then makes a model that
computes something else. So the file's own list of keys and tensors is gone through here. Each is read by
`transformers`, put into the configuration here, without effect at its value, or refused by name.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import gguf
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    modeling_gguf_pytorch_utils,
)
from transformers.integrations.gguf import GGUF_CONFIG_ARCHS
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

from laser.cli.progress import waiting
from laser.conversion.configuration import converted_config, refuse_lists
from laser.conversion.file import GGUF, ROTATION_TENSORS
from laser.errors import UserError

READING_FAILS = (ValueError, TypeError, OSError, LookupError, RuntimeError, AssertionError, StrictDataclassError)
"""What gguf and transformers raise on a file that they cannot read."""
GPT2_SPLITS = (
    *(None, "default", "gpt-2", "phi-2", "mpt", "olmo", "roberta-bpe", "jina-es", "jina-de", "jina-v1-en"),
    *("jina-v2-es", "jina-v2-de", "jina-v2-code", "gigachat", "a.x-4.0", "mellum", "falcon"),
    # These split digits off one by one first; their vocabularies have no tokens of several digits.
    *("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"),
)
"""Ways to split a text before its tokens are looked up (`tokenizer.ggml.pre`) that come out as GPT-2's."""


def convert_gguf(path: Path, directory: Path) -> None:
    """Dequantise a GGUF file and save it as bf16 safetensors with its tokenizer.

    The model that transformers reads from GGUF still calls itself quantised and refuses to be saved. So its weights go
    into a fresh model of the same configuration.

    Raises:
        UserError: the file is not a GGUF file of an architecture that transformers reads, or it holds something that
            changes the computation and that nobody converts. The message names it.
    """
    with _read_once():
        try:
            file = GGUF.open(path)
            refuse_lists(file)
            config = converted_config(file, AutoConfig.from_pretrained(path.parent, gguf_file=path.name))
            with waiting(f"convert {path.name}"), _without_bars():
                read, found = AutoModelForCausalLM.from_pretrained(
                    path.parent, gguf_file=path.name, config=config, dtype=torch.float32, output_loading_info=True
                )
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        except READING_FAILS as error:
            if isinstance(error, UserError):
                raise
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UserError(f"llm.source: {path} could not be read as GGUF ({reason}); check the file") from error
        _refuse_lost_tensors(file, read, found)
    _check_tokenizer(file, tokenizer)
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    fresh.load_state_dict(read.state_dict())  # rounds to bf16, whose eight bits hold the four of a quantised weight
    fresh.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


@contextmanager
def _read_once() -> Iterator[None]:
    """Let the file be parsed once, and each table of names be made once.

    transformers 5.23 parses it for the configuration, the weights and the tokenizer, and makes a table for each of the
    model's modules: 26 of 47 s for SmolLM2.
    """
    reader, tables = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = lru_cache(reader), lru_cache(tables)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, tables


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep transformers from drawing bars. It has a switch for most of them, and none for that of a GGUF file."""
    shown = modeling_gguf_pytorch_utils.tqdm
    modeling_gguf_pytorch_utils.tqdm = partial(shown, disable=True)
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        modeling_gguf_pytorch_utils.tqdm = shown


def _refuse_lost_tensors(file: GGUF, model: torch.nn.Module, found: Mapping[str, Any]) -> None:
    """Refuse a file with a tensor that no weight is made of, or without one that a weight is made of."""
    missing = set(found["missing_keys"]) - {"lm_head.weight"}  # tied, or unread
    if missing:
        raise UserError(
            f"llm.source: {file.path}: lacks the weight {min(missing)} of {file.architecture}; check the file"
        )
    if file.architecture in GGUF_CONFIG_ARCHS:
        lost = [str(name) for name in found["unexpected_keys"]]
    else:
        processor = TENSOR_PROCESSORS.get(file.architecture, TensorProcessor)()
        known = {*get_gguf_hf_weights_map(model, processor), "output.weight", *ROTATION_TENSORS}
        lost = [name for name in file.tensors if name not in known and name.removesuffix(".weight") not in known]
    if lost:
        raise file.refused(f"the tensor {lost[0]}", None)


def _check_tokenizer(file: GGUF, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a way of splitting texts that the converted tokenizer does not have."""
    split = file.tokenizer.get("pre")
    if file.tokenizer.get("model") == "gpt2" and split not in GGUF_PRE_TOKENIZER_SPLITS and split not in GPT2_SPLITS:
        raise file.refused("tokenizer.ggml.pre", split)
    if file.tokenizer.get("model") == "llama" and file.architecture != "phi3":
        backend = tokenizer.backend_tokenizer
        text = backend.normalizer.normalize_str("a") if backend.normalizer else "a"
        if backend.pre_tokenizer:
            text = "".join(piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text))
        if text.startswith("▁") != file.tokenizer.get("add_space_prefix", True):
            raise file.refused("tokenizer.ggml.add_space_prefix", file.tokenizer.get("add_space_prefix", True))
