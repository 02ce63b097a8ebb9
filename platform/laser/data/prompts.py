"""What the LLM reads: an instruction, then the items of a history in time order.

    {instruction}
    >> 1. {title} (brand: {brand}, category: {category})
    >> 2. ...

Instruction, numbers and items are each tokenised once, and a prompt is a concatenation of these segments
(`laser.data.plain_text`). It begins with the BOS token where the tokenizer puts one before a text, also without an
instruction, and no other token of the tokenizer's template is in it. A single item is a history of one item, so that
users and items share the template (arXiv 2409.01605, section 2 of docs/method.md). They share the instruction too,
unless `prompt.item_instruction` is set.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from laser.config.identity import stage_key
from laser.config.schema import PromptConfig
from laser.data.dataset import Dataset
from laser.data.examples import Examples
from laser.data.plain_text import PlainText
from laser.errors import UserError
from laser.storage.cache import make_once

Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class Prompts:
    """The segments of a dataset's prompts, as tokens."""

    instruction: Tokens
    """With the BOS token before it, if there is one."""
    numbers: list[Tokens]
    """`>> {k}.` for each k from 1 on; `>>` for all of them if each item is read by itself."""
    bodies: Tokens
    """The texts of all items, one after the other."""
    offsets: NDArray[np.int64]
    """Item i's text is `bodies[offsets[i]:offsets[i + 1]]`."""

    @staticmethod
    def build(dataset: Dataset, config: PromptConfig, tokenizer: Any, cache_dir: Path) -> "Prompts":
        """`PromptFiles.make`, opened."""
        return PromptFiles.make(dataset, config, tokenizer, cache_dir).open()

    def tokens(self, history: NDArray[np.int32]) -> Tokens:
        """Return the prompt of one history of at most `max_history_items` items."""
        segments = [self.instruction]
        for number, item in zip(self.numbers, history, strict=False):
            segments += [number, self.item(item)]
        assert len(history) <= len(self.numbers), "callers cut histories to max_history_items"
        return np.concatenate(segments)

    def packed(self, items_N: NDArray[np.int32], counts_B: NDArray[np.int64]) -> Tokens:
        """Return the prompts of many histories, one after the other.

        Args:
            items_N: their items, history after history.
            counts_B: items of each, at most `max_history_items`.
        """
        assert counts_B.max() <= len(self.numbers), "callers cut histories to max_history_items"
        markers = np.concatenate([self.instruction, *self.numbers])
        marker_ends = np.cumsum([len(self.instruction), *map(len, self.numbers)])
        history_N, item_N = np.repeat(np.arange(len(counts_B)), counts_B), np.arange(len(items_N))
        place_N = item_N - (np.cumsum(counts_B) - counts_B)[history_N]
        starts_S = np.zeros(len(counts_B) + 2 * len(items_N), np.int64)  # of segments: instructions, numbers, texts
        ends_S = np.full_like(starts_S, len(self.instruction))
        number_N = 2 * item_N + history_N + 1
        starts_S[number_N], ends_S[number_N] = marker_ends[place_N], marker_ends[place_N + 1]
        starts_S[number_N + 1] = len(markers) + self.offsets[items_N]
        ends_S[number_N + 1] = len(markers) + self.offsets[items_N + 1]
        lengths_S = ends_S - starts_S
        place_Q = np.arange(lengths_S.sum()) + np.repeat(starts_S - np.cumsum(lengths_S) + lengths_S, lengths_S)
        is_text_Q = place_Q >= len(markers)
        tokens_Q = markers[np.where(is_text_Q, 0, place_Q)]
        tokens_Q[is_text_Q] = self.bodies[place_Q[is_text_Q] - len(markers)]
        return tokens_Q

    def item(self, item: int) -> Tokens:
        """Return the text of one item, without its number."""
        return self.bodies[self.offsets[item] : self.offsets[item + 1]]

    def digest(self) -> str:
        """Return a hash of all segments."""
        digest = hashlib.sha256()
        for tokens in (self.instruction, *self.numbers, self.bodies):
            digest.update(len(tokens).to_bytes(8, "little") + tokens.tobytes())
        digest.update(self.offsets.tobytes())
        return digest.hexdigest()

    def lengths(self, examples: Examples) -> NDArray[np.int64]:
        """Return the number of tokens of each example's prompt."""
        body_lengths = np.diff(self.offsets)
        number_lengths = np.cumsum([0, *(len(number) for number in self.numbers)])
        counts = examples.ends - examples.starts
        totals = np.concatenate([[0], np.cumsum(body_lengths[examples.item_ids])])
        return len(self.instruction) + number_lengths[counts] + totals[examples.ends] - totals[examples.starts]


@dataclass(frozen=True)
class PromptFiles:
    """The segments of a dataset's prompts, made: plain data that other processes open. It pickles."""

    instruction: tuple[int, ...]
    numbers: tuple[tuple[int, ...], ...]
    items: Path
    """The items' texts, an Arrow file of lists of tokens."""

    @staticmethod
    def make(dataset: Dataset, config: PromptConfig, tokenizer: Any, cache_dir: Path) -> "PromptFiles":
        """Tokenise the segments of a dataset; the items' texts once, into the cache.

        Args:
            dataset: its items' titles and attributes are read.
            config: instruction, attributes and limits.
            tokenizer: a fast tokenizer of transformers.
            cache_dir: holds `prompts/`.

        Raises:
            UserError: the dataset lacks an attribute that the prompt names.
        """
        attributes = dataset.item_attributes if config.attributes is None else config.attributes
        for name in attributes:
            if name not in dataset.item_attributes:
                known = ", ".join(dataset.item_attributes) or "none"
                raise UserError(f"prompt.attributes: {name!r} is no attribute of {dataset.name} (it has: {known})")
        text = PlainText(tokenizer)
        own = config.item_attention == "own"  # an item has one text, wherever it stands
        numbers = text.tokens([">>" if own else f">> {k}." for k in range(1, config.max_history_items + 1)])
        return PromptFiles(
            instruction=_instruction(config.instruction, text),
            numbers=tuple(map(tuple, numbers)),
            items=_make_items(dataset, attributes, config.max_item_tokens, text, cache_dir.absolute()),
        )

    def with_instruction(self, instruction: str, tokenizer: Any) -> "PromptFiles":
        """The same items after another instruction, which may be empty."""
        return replace(self, instruction=_instruction(instruction, PlainText(tokenizer)))

    def open(self) -> Prompts:
        """Map the items' texts."""
        with pa.memory_map(str(self.items)) as source:
            mapped = pa.ipc.open_file(source).read_all().column("tokens").chunk(0)
        return Prompts(
            instruction=np.asarray(self.instruction, dtype=np.int32),
            numbers=[np.asarray(ids, dtype=np.int32) for ids in self.numbers],
            bodies=mapped.values.to_numpy(),
            offsets=mapped.offsets.to_numpy(),
        )


def _instruction(words: str, text: PlainText) -> tuple[int, ...]:
    return (*text.start, *text.tokens_and_controls(f"{words}\n" if words else ""))


def item_texts(items: pa.Table, attributes: tuple[str, ...]) -> list[str]:
    """Return ` {title} (brand: {brand}, category: {category})` of each item, without the attributes that are empty."""
    columns = {name: items.column(name).to_pylist() for name in attributes}
    texts = []
    for row, title in enumerate(items.column("title").to_pylist()):
        known = ", ".join(f"{name}: {values[row]}" for name, values in columns.items() if values[row])
        texts.append(f" {title} ({known})" if known else f" {title}")
    return texts


def _make_items(
    dataset: Dataset, attributes: tuple[str, ...], max_tokens: int, text: PlainText, cache_dir: Path
) -> Path:
    """The file of the items' texts as tokens, made once."""

    def write(aside: Path) -> None:
        bodies, offsets = _tokenise(dataset, attributes, max_tokens, text)
        table = pa.table({"tokens": pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(bodies))})
        with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)

    place = cache_dir / "prompts" / stage_key("items", dataset.fingerprint, attributes, max_tokens, text.content)
    make_once(place, write)
    return place


def _tokenise(
    dataset: Dataset, attributes: tuple[str, ...], max_tokens: int, text: PlainText
) -> tuple[Tokens, NDArray[np.int64]]:
    [newline] = text.tokens(["\n"])
    kept = max(0, max_tokens - len(newline))
    ids = text.tokens(item_texts(dataset.items, attributes))
    bodies = [np.asarray([*item[:kept], *newline], dtype=np.int32) for item in ids]
    offsets = np.concatenate([[0], np.cumsum([len(body) for body in bodies])]).astype(np.int64)
    return np.concatenate(bodies), offsets
