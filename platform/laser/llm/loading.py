"""Loads the frozen LLM's weights: whole in one process, or tensor by tensor for a sharded LLM.

`laser.conversion.source` finds the files; this module reads them. Any decoder of `transformers` that takes
`inputs_embeds` works. Those of `laser.llm.packed.architectures` run packed.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights

from laser.config.schema import LLMConfig
from laser.errors import UserError
from laser.llm.packed.architectures import why_not_packed
from laser.llm.packed.decoder import PackedDecoder
from laser.llm.packed.fused import kernels

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
"""A tokenizer of `transformers` has one of these; its configuration alone gives one that knows no text."""

Decoder: TypeAlias = PreTrainedModel | PackedDecoder
"""The LLM that reads the text: any decoder of `transformers`, or a packed one."""


def choose_dtype(name: Literal["auto", "bf16", "fp32"], device: torch.device) -> torch.dtype:
    """Return the dtype of the frozen LLM's arithmetic.

    `auto` takes bf16 where the hardware multiplies it natively (a GPU; AMX or AVX-512 BF16 on a CPU), else fp32. On an
    AVX2 machine, which emulates bf16, its products ran 25 to 200 times slower than fp32 ones.
    """
    if name == "auto":
        capabilities = torch.cpu.get_capabilities()
        native = device.type == "cuda" or capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
        return torch.bfloat16 if native else torch.float32
    return torch.bfloat16 if name == "bf16" else torch.float32


def llm_config(directory: Path, num_layers: int | None, trust_remote_code: bool = False) -> PretrainedConfig:
    """Return the model's configuration, cut to its first `num_layers` decoder blocks.

    Raises:
        UserError: the directory holds no model, or fewer blocks than asked for.
    """
    if not (directory / "config.json").is_file():
        raise UserError(f"llm.source: {directory} has no config.json; name a directory that save_pretrained wrote")
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"llm.source: {directory / 'config.json'}: {first_line(error)}; name another model") from error
    _refuse_other_models(config, directory)
    decoder = config.get_text_config()
    if num_layers is not None:
        if num_layers > decoder.num_hidden_layers:
            raise UserError(
                f"llm.num_layers: {num_layers} is more than the {decoder.num_hidden_layers} blocks of {directory.name}"
                "; lower it"
            )
        of_blocks = decoder.num_hidden_layers
        decoder.num_hidden_layers = num_layers
        for name, value in vars(decoder).items():  # models with mixed blocks list something for each, such as its type
            if isinstance(value, list) and len(value) == of_blocks:
                setattr(decoder, name, value[:num_layers])
    return config


def _refuse_other_models(config: PretrainedConfig, directory: Path) -> None:
    """Refuse what `transformers` opens, but what reads no text from left to right with the weights of the folder."""
    if config.is_encoder_decoder:
        raise UserError(f"llm.source: {directory}: {config.model_type} is an encoder with a decoder; name a decoder")
    if getattr(config, "quantization_config", None):
        raise UserError(
            f"llm.source: {directory}: config.json has a quantization_config, and quantised safetensors are not read; "
            "name the model in bf16 or fp32, or a GGUF file"
        )
    if (directory / "adapter_config.json").is_file():
        raise UserError(f"llm.source: {directory} holds an adapter (adapter_config.json); merge it into the model")


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the error's name where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def embedding_width(llm: Decoder) -> int:
    """Return H, the width of the embeddings that the decoder takes; its blocks may have another (OPT-350M)."""
    table = llm.get_input_embeddings()
    width = getattr(table, "embedding_dim", None)
    return int(llm.config.get_text_config().hidden_size if width is None else width)


def empty_llm(config: PretrainedConfig, dtype: torch.dtype, settings: LLMConfig) -> Decoder:
    """Build the decoder without LM head and weights, under the context that the caller has set (`zero.Init`, meta).

    Raises:
        UserError: `llm.implementation` is packed, and this model cannot run packed.
    """
    if settings.implementation != "transformers":
        reason = why_not_packed(config)
        if reason is None:
            return PackedDecoder(config, dtype, kernels(settings.compile))
        if settings.implementation == "packed":
            raise UserError(
                f"llm.implementation: packed does not run this {config.model_type}: {reason}; set it to auto"
            )
    with no_init_weights():
        return AutoModel.from_config(config, dtype=dtype, trust_remote_code=settings.trust_remote_code)


def load_llm(directory: Path, dtype: torch.dtype, settings: LLMConfig, device: torch.device) -> Decoder:
    """Load the whole decoder without LM head on one device, in evaluation mode, without gradients."""
    config = llm_config(directory, settings.num_layers, settings.trust_remote_code)
    with torch.device("meta"):
        llm = empty_llm(config, dtype, settings)
    if isinstance(llm, PackedDecoder):
        llm.requires_grad_(False).to_empty(device=device)
        for name, weight in decoder_weights(llm, directory):
            llm.get_parameter(name).copy_(weight)
        _refuse_unread(directory, [part for parts in llm.sources().values() for part in parts])
    else:
        transformers.logging.set_verbosity_error()  # otherwise it lists the head and all blocks that were left out
        transformers.logging.disable_progress_bar()
        remote_code = settings.trust_remote_code
        llm, found = AutoModel.from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            trust_remote_code=remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
        if found["missing_keys"]:  # transformers would draw them at random
            raise _missing(directory, min(found["missing_keys"]))
        _refuse_unread(directory, [name for name, _ in llm.named_parameters()])
        llm = llm.to(device)
    return llm.requires_grad_(False).eval()


def _missing(directory: Path, name: str) -> UserError:
    return UserError(
        f"llm.source: the files of {directory} lack the weight {name}, which config.json asks for; name a whole model"
    )


def _refuse_unread(directory: Path, names: Iterable[str]) -> None:
    """Refuse files with a bias beside a weight that is read, if the model of config.json would leave it out."""
    read = set(names)
    for stored in _files_by_weight(directory):
        for name in (stored, stored.partition(".")[2]):
            if name.endswith(".bias") and name.removesuffix("bias") + "weight" in read and name not in read:
                raise UserError(
                    f"llm.source: {directory} holds {stored}, and the model of config.json has no such bias; "
                    "name a folder whose config.json belongs to its weights"
                )


def decoder_weights(llm: Decoder, directory: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield `(name, tensor)` of each parameter of the decoder, one at a time, from the files."""
    if not isinstance(llm, PackedDecoder):
        yield from llm_weights(directory, [name for name, _ in llm.named_parameters()])
        return
    for name, parts in llm.sources().items():
        yield name, torch.cat([weight for _, weight in llm_weights(directory, parts)])


def llm_weights(directory: Path, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield `(name, tensor)` of the named weights, one at a time from the memory-mapped safetensors files.

    Args:
        directory: holds `model.safetensors`, or several files and their index.
        names: parameter names of the decoder without LM head; files of models with a head store them under `model.`
            or another base prefix.

    Raises:
        UserError: the files lack one of the weights, as config.json names it.
    """
    files = _files_by_weight(directory)
    suffixes = {stored.split(".", 1)[1]: stored for stored in files if "." in stored}
    for name in names:
        stored = name if name in files else suffixes.get(name)
        if stored is None:
            raise _missing(directory, name)
        with safe_open(files[stored], framework="pt") as file:
            yield name, file.get_tensor(stored)


def _files_by_weight(directory: Path) -> dict[str, Path]:
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        return {name: directory / file for name, file in json.loads(index.read_text())["weight_map"].items()}
    single = directory / "model.safetensors"
    if not single.is_file():
        raise UserError(
            f"llm.source: {directory} has no model.safetensors; only safetensors weights are read, no pickles"
        )
    try:
        with safe_open(single, framework="pt") as file:
            return dict.fromkeys(file.keys(), single)
    except SafetensorError as error:
        raise UserError(f"llm.source: {single} is not safetensors ({error}); pickles are never read") from error


def embedding_std(directory: Path, trust_remote_code: bool = False) -> float:
    """Return the std of the input embeddings as the first block receives them; virtual tokens start at this scale.

    The embeddings are read from the file, because under ZeRO-3 the module holds only a shard.
    """
    weight_VH, scale = _embedding_table(directory, trust_remote_code)
    return float(weight_VH.float().std()) * scale


def eos_embedding(directory: Path, trust_remote_code: bool = False) -> Tensor:
    """Return the [EOS] token's input embedding as the first block receives it, float32 (H,), read from the file.

    Raises:
        UserError: the model has no [EOS] token.
    """
    weight_VH, scale = _embedding_table(directory, trust_remote_code)
    return weight_VH[eos_token_id(llm_config(directory, 1, trust_remote_code))].float() * scale


def _embedding_table(directory: Path, trust_remote_code: bool) -> tuple[Tensor, float]:
    """Return the input embeddings (V, H) and the factor by which the model multiplies them."""
    settings = LLMConfig(implementation="transformers", trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        llm = empty_llm(llm_config(directory, 1, trust_remote_code), torch.float32, settings)
    table = llm.get_input_embeddings()
    name = next(name for name, module in llm.named_modules() if module is table)
    _, weight_VH = next(llm_weights(directory, [f"{name}.weight"]))
    return weight_VH, float(getattr(table, "scalar_embed_scale", 1.0))  # Gemma multiplies inside the module


def eos_token_id(config: PretrainedConfig) -> int:
    """Return the id of the token that ends a text; if the model names several, the first.

    Raises:
        UserError: the model names no such token.
    """
    ids = config.get_text_config().eos_token_id
    if ids is None:
        raise UserError("bituning.representation: eos; the model of llm.source names no [EOS] token: set it to suffix")
    return int(ids[0] if isinstance(ids, list) else ids)


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer beside the weights.

    Raises:
        UserError: there is none, or none that `transformers` runs as a fast one.
    """
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(
            f"llm.source: {directory} has no tokenizer ({' or '.join(TOKENIZER_FILES)}); "
            "save it beside the weights with tokenizer.save_pretrained"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory)
    except Exception as error:  # what a damaged file raises depends on the tokenizer's class
        raise UserError(
            f"llm.source: the tokenizer in {directory} cannot be read ({first_line(error)}); save it again"
        ) from error
    if not tokenizer.is_fast:
        raise UserError(
            f"llm.source: {directory} has a {type(tokenizer).__name__}, which is no fast tokenizer; "
            "name a model that has a tokenizer.json"
        )
    return tokenizer
