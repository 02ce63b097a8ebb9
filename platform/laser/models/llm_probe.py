"""Opens an LLM and tries it once: whether it reads as everything here takes for granted.

A decoder must take embeddings, give a text the same output alone as beside a longer one, and give finite numbers and a
gradient. Its tokenizer must not know tokens that its embeddings lack. What passes is noted in the cache under the
content of the LLM, so that the next run does not try it again.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from laser.config.identity import llm_content, stage_key
from laser.config.schema import Experiment, LLMConfig
from laser.conversion.source import resolve_llm
from laser.errors import UserError
from laser.llm.loading import Decoder, embedding_width, first_line, llm_config, load_llm, load_tokenizer
from laser.models.bituning import BiTuning
from laser.storage.cache import make_once

PROBE_VERSION = 1
"""Raised when the probe asks for more."""
WHOLE_BYTES = 2**30
"""Files up to this size are read whole; of larger ones, the first blocks of each type are enough."""
TEXTS = (">> 1. A short title", ">> 1. A title and much more, so that the text before it lies beside a longer one\n")
TOLERANCE = 1e-4
"""Largest change of a representation by other texts in the batch, as a part of its norm, in float32. Measured: 1e-6 of
causal decoders; 4e-3 and more of bidirectional ones with random weights."""
PREFIX = 2
"""Virtual tokens before the texts."""


@dataclass(frozen=True)
class OpenedLLM:
    """An LLM that passed the probe."""

    directory: Path
    content: str
    """Names weights and tokenizer, wherever they lie (`laser.config.identity.llm_content`)."""


def open_llm(settings: LLMConfig, cache_dir: Path) -> OpenedLLM:
    """Find the LLM's files, and try it unless an equal one has passed before.

    Args:
        settings: how it will be loaded; its source is fetched or converted if need be.
        cache_dir: the cache of all artifacts; what passed is noted in its folder `llm/probes`.

    Raises:
        UserError: there is no such LLM, or it cannot be read as a causal decoder; says why.
    """
    directory, content = resolve_llm(settings.source, cache_dir), llm_content(settings.source, cache_dir)
    how = [settings.num_layers, settings.implementation, settings.trust_remote_code]
    key = stage_key("probe", PROBE_VERSION, transformers.__version__, content, how)

    def probe(aside: Path) -> None:
        probe_llm(directory, settings)
        aside.write_text(content + "\n", encoding="utf-8")

    make_once(cache_dir / "llm" / "probes" / key, probe)
    return OpenedLLM(directory, content)


def probe_llm(directory: Path, settings: LLMConfig) -> None:
    """Try an LLM on two short texts, in float32 on the CPU.

    Raises:
        UserError: it does not read as a causal decoder over its own tokenizer's tokens.
    """
    config = llm_config(directory, settings.num_layers, settings.trust_remote_code)
    tokenizer = load_tokenizer(directory)
    room = (max_positions(config) or 10**6) - PREFIX - 1
    if room < 2:
        raise _refused(directory, config, f"it has {room + PREFIX + 1} positions")
    short, long = tokenizer(list(TEXTS), add_special_tokens=False)["input_ids"]
    tokens = [torch.tensor(short[: room // 2]), torch.tensor(long[:room])]
    try:
        llm = load_llm(directory, torch.float32, _trial_settings(directory, config, settings), torch.device("cpu"))
        num_rows = llm.get_input_embeddings().weight.shape[0]
    except UserError:
        raise
    except Exception as error:  # what a model's class refuses, it refuses with any exception
        raise _refused(directory, config, f"it cannot be loaded ({_name(error)})") from error
    _check_tokenizer(directory, tokenizer, tokens, num_rows)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            std = float(llm.get_input_embeddings()(torch.cat(tokens)).std())
            bituning = BiTuning(embedding_width(llm), std, num_prefix_tokens=PREFIX)
        alone, _ = _read(llm, bituning, tokens[:1])
        beside, gradient = _read(llm, bituning, tokens)
    except Exception as error:
        raise _refused(directory, config, f"it does not read embeddings of a text ({_name(error)})") from error
    if alone.shape[1] != embedding_width(llm):
        reason = f"it gives outputs of width {alone.shape[1]} for embeddings of width {embedding_width(llm)}"
        raise _refused(directory, config, reason)
    if not (beside.isfinite().all() and gradient.isfinite().all()):
        raise _refused(directory, config, "its outputs are not finite")
    if not gradient.any():
        raise _refused(directory, config, "it gives no gradient to its input embeddings")
    change = float((alone[0] - beside[0]).norm() / alone[0].norm().clamp(min=1e-20))
    if change > TOLERANCE:
        raise _refused(directory, config, f"what follows a text changes what it gives for the text, by {change:.1%}")


def max_positions(config: PretrainedConfig) -> int | None:
    """Return how many tokens the LLM reads in one sequence; None where its configuration names no bound.

    A rotation that is scaled for longer texts counts as long as it is made for. Rotations that change with the longest
    text of a batch count up to where they begin to.
    """
    decoder = config.get_text_config()
    limit = getattr(decoder, "max_position_embeddings", None)
    rotation = getattr(decoder, "rope_parameters", None) or {}
    kinds = [part for part in rotation.values() if isinstance(part, dict)] or [rotation]
    for kind in kinds:
        original = kind.get("original_max_position_embeddings") or getattr(
            decoder, "original_max_position_embeddings", None
        )
        if kind.get("rope_type") == "dynamic" or (
            kind.get("rope_type") == "longrope" and kind.get("long_factor") != kind.get("short_factor")
        ):
            return min(part for part in (limit, original) if part is not None)
        if kind.get("rope_type") == "yarn" and original is not None:
            limit = max(limit or 0, int(original * kind.get("factor", 1.0)))
    return None if not limit or limit < 0 else int(limit)


def check_length(config: Experiment, longest: int, llm: PretrainedConfig) -> None:
    """Refuse prompts that are longer than the LLM's positions.

    Args:
        config: says how many virtual tokens stand beside a text.
        longest: text tokens of the longest history.
        llm: configuration of the LLM.

    Raises:
        UserError: they are longer.
    """
    limit = max_positions(llm)
    virtual = config.mformer.num_virtual_tokens if config.bituning.prefix != "none" else 0
    added = virtual + (config.bituning.representation != "mean")
    if limit is not None and longest + added > limit:
        raise UserError(
            f"prompt.max_history_items: {config.prompt.max_history_items}; the longest prompt takes {longest + added} "
            f"tokens ({longest} of text, {added} virtual), and the LLM has {limit} positions; lower it, "
            "prompt.max_item_tokens or mformer.num_virtual_tokens, or name another llm.source"
        )


def _trial_settings(directory: Path, config: PretrainedConfig, settings: LLMConfig) -> LLMConfig:
    """Return how the LLM is loaded for the probe: no deeper than it needs to have blocks of each type."""
    decoder = config.get_text_config()
    depth = decoder.num_hidden_layers
    if sum(path.stat().st_size for path in directory.glob("*.safetensors")) > WHOLE_BYTES:
        kinds = getattr(decoder, "layer_types", None) or getattr(decoder, "layers_block_type", None) or []
        depth = min(depth, max([2, *(kinds.index(kind) + 1 for kind in set(kinds))]))
    return settings.model_copy(update={"num_layers": depth, "compile": False})


def _check_tokenizer(directory: Path, tokenizer: PreTrainedTokenizerBase, tokens: list[Tensor], num_rows: int) -> None:
    """Refuse a tokenizer whose tokens the embeddings lack, or that tells no texts apart.

    Special tokens never come from text; Gemma 3 without vision has one more than embeddings.
    """
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    largest = max((number for token, number in tokenizer.get_vocab().items() if token not in special), default=-1)
    if max(largest, *(int(ids.max()) for ids in tokens if len(ids))) >= num_rows:
        raise UserError(
            f"llm.source: the tokenizer in {directory} knows tokens up to number {largest}, and the model has "
            f"{num_rows} embeddings; save the model's own tokenizer beside it"
        )
    if not all(len(ids) for ids in tokens) or tokens[0].unique().equal(tokens[1].unique()):
        raise UserError(
            f"llm.source: the tokenizer in {directory} gives English texts equal tokens or none; "
            "save the model's own tokenizer beside it"
        )


def _read(llm: Decoder, bituning: BiTuning, tokens: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the representations of some texts, and the gradient that reaches the tokens before them."""
    representation_BH = bituning(llm, None, torch.cat(tokens), torch.tensor([len(ids) for ids in tokens]))
    assert bituning.prefix is not None
    (gradient_LH,) = torch.autograd.grad(representation_BH.square().sum(), bituning.prefix)
    return representation_BH.detach(), gradient_LH


def _refused(directory: Path, config: PretrainedConfig, reason: str) -> UserError:
    return UserError(f"llm.source: {directory}: {config.model_type}: {reason}; name a causal decoder")


def _name(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
