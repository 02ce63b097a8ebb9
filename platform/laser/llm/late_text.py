"""What a late prefix reads of an experiment's histories, from the text cache or anew.

With `prompt.item_attention=own` the cache holds the instruction and each item once. With `causal` it holds the longest
of the histories that begin at the same place; the others are its beginnings.

Shape suffixes: B batch, E examples, I items, T tokens, R rows.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from transformers import PretrainedConfig

from laser.config.identity import stage_key
from laser.config.schema import Experiment
from laser.data.examples import Examples
from laser.data.prompts import Prompts
from laser.errors import UserError
from laser.llm.loading import choose_dtype, load_llm
from laser.llm.packed.architectures import ARCHITECTURES
from laser.llm.text_cache import Text, TextCache
from laser.llm.text_files import StateShape, TextFiles
from laser.llm.text_memory import TextMemory, fetch
from laser.llm.text_states import Segments, TextStates
from laser.storage.cache import make_once

logger = logging.getLogger(__name__)

VERSION = 2
"""Raised when the states of the same text change."""
MIB = 2**20
ROWS = "rows"
"""Name of the number of rows of all texts, in the file of first rows."""
TOKENS_LOOKED_UP = 16
"""Cached tokens that take about as long to look up and to attend to as one takes to pass through the LLM."""


@dataclass(frozen=True)
class LateText:
    """What a late prefix reads of the histories of one split."""

    examples: Examples
    prompts: Prompts
    own: bool
    """Whether each item is read by itself."""
    memory: TextMemory | None = None
    """The cached states; None if the text is read anew."""
    starts: NDArray[np.int64] | None = None
    """First row of each item or, for ordinary text, of each example."""
    instruction_start: int = 0
    """First row of the instruction, if each item is read by itself."""

    @property
    def cached_bytes(self) -> int:
        """Bytes of the cached states; 0 if the text is read anew."""
        return 0 if self.memory is None else self.memory.nbytes

    def costs(self, lengths: NDArray[np.int64], num_added_tokens: int) -> NDArray[np.int64]:
        """Return what reading histories of these lengths costs, in tokens that pass through the LLM."""
        return lengths if self.memory is None else num_added_tokens + lengths // TOKENS_LOOKED_UP

    def of(self, indices: NDArray[np.int64], device: torch.device) -> TextStates | Segments | None:
        """Return what `Batch.text` holds for some examples: rows where the device reads them, places on the CPU."""
        if not self.own and self.memory is None:
            return None
        counts_B, lengths_S, rows_S = (torch.from_numpy(part) for part in self._segments(indices))
        segments = Segments(lengths_S, counts_B)
        if self.memory is None:
            return segments
        states = resident = self.memory.resident(device)
        if states is None:
            states, rows_S = fetch(self.memory.states, rows_S, lengths_S, device)
        return TextStates(states, segments.places(rows_S, moved=self.own), resident is not None)

    def _segments(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Return the number of segments of each history; and of each segment the tokens and the first row.

        A history is one segment, or the instruction and its items.
        """
        examples, starts = self.examples, self.starts
        if not self.own:
            assert starts is not None
            lengths_B = self.prompts.lengths(examples.take(indices))
            return np.ones_like(lengths_B), lengths_B, starts[indices]
        counts_B = examples.ends[indices] - examples.starts[indices] + 1
        first_B = np.cumsum(counts_B) - counts_B
        items, _ = examples.histories(indices)
        lengths_S, rows_S = np.empty(counts_B.sum(), np.int64), np.zeros(counts_B.sum(), np.int64)
        is_item_S = np.ones(len(lengths_S), np.bool_)
        is_item_S[first_B] = False
        lengths_S[first_B], lengths_S[is_item_S] = len(self.prompts.instruction), item_lengths(self.prompts)[items]
        if starts is not None:
            rows_S[first_B], rows_S[is_item_S] = self.instruction_start, starts[items]
        return counts_B, lengths_S, rows_S


def open_texts(
    files: TextFiles | None, examples: Mapping[str, Examples], prompts: Mapping[str, Prompts], config: Experiment
) -> dict[str, LateText]:
    """Return what a late prefix reads of each split's histories; nothing where the prefix stands before the text.

    Args:
        files: those of this experiment, which are mapped; None if its texts are read anew.
        examples: split → histories.
        prompts: split → their words.
        config: the experiment.
    """
    own = config.prompt.item_attention == "own"
    if config.bituning.prefix_position == "before":
        return {}
    if files is None:
        return {split: LateText(part, prompts[split], own) for split, part in examples.items()}
    memory, starts = TextMemory(TextCache(files.folder, files.shape).open()), load_file(files.starts)
    return {
        split: LateText(part, prompts[split], own, memory, starts[split], int(starts[f"{split}.instruction"][0]))
        for split, part in examples.items()
    }


def make_texts(
    config: Experiment,
    llm: PretrainedConfig,
    llm_directory: Path,
    llm_content: str,
    examples: Mapping[str, Examples],
    prompts: Mapping[str, Prompts],
    device: torch.device,
) -> TextFiles | None:
    """Read the texts that the cache lacks; None where the experiment has no late prefix, or no room for its texts.

    Args:
        config: the experiment.
        llm: the LLM's configuration, cut to its depth.
        llm_directory: holds the LLM.
        llm_content: names the LLM's weights.
        examples: split → histories, those of `items` included.
        prompts: split → their words.
        device: where the LLM reads.

    Raises:
        UserError: items are to be read by themselves, and the LLM's positions cannot be turned.
    """
    own, decoder = config.prompt.item_attention == "own", llm.get_text_config()
    if own and decoder.model_type not in ARCHITECTURES:
        raise UserError(
            f"prompt.item_attention: own; positions of {decoder.model_type} are not turned, those of "
            f"{', '.join(ARCHITECTURES)} are: set it to causal"
        )
    if config.bituning.prefix_position == "before" or config.finetuning.trains_llm:
        return None
    shape = StateShape.of(decoder, choose_dtype(config.llm.dtype, device))
    key = stage_key("texts", VERSION, llm_content, decoder.num_hidden_layers, str(shape.dtype))
    cache = TextCache(Path(config.cache_dir).expanduser().absolute() / "texts" / key, shape)
    words = [prompts[split].digest() for split in ("train", "items")]  # the other splits have the words of train
    digests = [(split, part.digest()) for split, part in examples.items()]
    files = TextFiles(cache.folder, shape, cache.folder / f"{stage_key('starts', own, words, digests)}.safetensors")
    if not (files.starts.is_file() and cache.is_whole()):
        texts, chosen = (_item_texts if own else _history_texts)(examples, prompts)
        num_rows = sum({text.name: text.num_kept for text in texts}.values())
        if not _fits(num_rows * shape.token_bytes, config.llm.cache_mib):
            return None
        cache.add(texts, lambda: load_llm(llm_directory, shape.dtype, config.llm, device), device)
        starts = cache.starts(texts)
        content = {name: starts[numbers] for name, numbers in chosen.items()} | {ROWS: np.array([num_rows])}
        make_once(files.starts, lambda aside: save_file(content, aside))
    elif not _fits(int(load_file(files.starts)[ROWS][0]) * shape.token_bytes, config.llm.cache_mib):
        return None
    return files


def _fits(size: int, cache_mib: int) -> bool:
    if size <= cache_mib * MIB:
        return True
    logger.warning(
        "the texts' keys and values take %d MiB, and llm.cache_mib is %d: the text is read anew in each step",
        -(-size // MIB), cache_mib,
    )  # fmt: skip
    return False


Chosen = dict[str, NDArray[np.int64]]
"""Split → numbers of the texts of its items or examples; `<split>.instruction` → the number of its instruction's."""


def _item_texts(examples: Mapping[str, Examples], prompts: Mapping[str, Prompts]) -> tuple[list[Text], Chosen]:
    """Return each instruction, and each item after it, as texts."""
    texts: list[Text] = []
    first_of: dict[bytes, int] = {}
    chosen: Chosen = {}
    for split in examples:
        words = prompts[split]
        instruction, marker, num_items = words.instruction, words.numbers[0], len(words.offsets) - 1
        first = first_of.setdefault(instruction.tobytes(), len(texts))
        if first == len(texts):
            texts.append(Text(instruction))
            items = (np.concatenate([instruction, marker, words.item(item)]) for item in range(num_items))
            texts.extend(Text(ids, len(instruction)) for ids in items)
        chosen |= {split: first + 1 + np.arange(num_items), f"{split}.instruction": np.array([first])}
    return texts, chosen


def _history_texts(examples: Mapping[str, Examples], prompts: Mapping[str, Prompts]) -> tuple[list[Text], Chosen]:
    """Return each item, and the longest of the histories that begin at the same place, as texts."""
    texts: list[Text] = []
    chosen: Chosen = {}
    users = [split for split in examples if split != "items"]
    for group in (users, ["items"]):
        starts, ends = (
            np.concatenate([getattr(examples[split], name) for split in group]) for name in ("starts", "ends")
        )
        places, number_E = np.unique(starts, return_inverse=True)
        longest = np.zeros(len(places), np.int64)
        np.maximum.at(longest, number_E, ends)
        items, words = examples[group[0]].item_ids, prompts[group[0]]
        sizes = np.cumsum([len(examples[split]) for split in group])[:-1]
        for split, numbers in zip(group, np.split(number_E + len(texts), sizes), strict=True):
            chosen |= {split: numbers, f"{split}.instruction": np.zeros(1, np.int64)}
        texts += [Text(words.tokens(items[start:end])) for start, end in zip(places, longest, strict=True)]
    return texts, chosen


def item_lengths(prompts: Prompts) -> NDArray[np.int64]:
    """Return the tokens of each item's text, its marker included."""
    return np.diff(prompts.offsets) + len(prompts.numbers[0])
