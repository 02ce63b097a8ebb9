"""Turns text into an LLM's tokens: the same ones for the same text, whatever else the tokenizer was saved with.

A prompt is a concatenation of segments that are tokenised apart (`laser.data.prompts`). So nothing may happen at the
start and the end of a segment that belongs to the start and the end of a whole text: no BOS or EOS of a template, no
space that is added or stripped. A length at which the tokenizer cuts or pads plays no part either.

What users and shops wrote is text, also where it spells a token that steers the LLM: the title `</s>` is four
characters, and does not end the text.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

MARKUP = re.compile(r"<[^\s<>]+>|\[[^\s\[\]]+\]")
"""Added tokens of this form steer the LLM too, such as Qwen's `<think>`, which it does not flag as special. Others are
words and runs of spaces."""
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""Pieces by which a tokenizer spells bytes that it has no piece for. The model finds them by these names."""


class PlainText:
    """A tokenizer without its saved settings.

    Args:
        tokenizer: a fast tokenizer of transformers. It is not changed.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend: Tokenizer = tokenizer.backend_tokenizer
        content = json.loads(backend.to_str())
        self.control_ids = _control_ids(content, tokenizer.all_special_tokens)
        self.content = json.dumps(_without_settings(content, self.control_ids))
        """The whole tokenizer as JSON; tokens depend on nothing else."""
        self._backend = Tokenizer.from_str(self.content)
        self.start = self._start(backend.post_processor)
        """Tokens that the tokenizer's template puts before every text, such as BOS; often none."""

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text."""
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def tokens_and_controls(self, text: str) -> list[int]:
        """Return the tokens of a text that may spell control tokens, such as `<|im_start|>`, and means them."""
        names = sorted(self.control_ids, key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
        read = (
            [self.control_ids[part]] if part in self.control_ids else self.tokens([part])[0] for part in parts if part
        )
        return [token for tokens in read for token in tokens]

    def _start(self, template: Any) -> tuple[int, ...]:
        if template is None:
            return ()
        encoding = template.process(self._backend.encode("a", add_special_tokens=False), None, True)
        num_start = next((n for n, is_special in enumerate(encoding.special_tokens_mask) if not is_special), 0)
        return tuple(encoding.ids[:num_start])


def _control_ids(content: dict[str, Any], special: Sequence[str]) -> dict[str, int]:
    """Return the id of each control token by its text."""
    added = {token["content"]: token for token in content["added_tokens"]}
    return {
        text: token["id"]
        for text, token in added.items()
        if text and (token["special"] or text in special or MARKUP.fullmatch(text))
    }


def _without_settings(content: dict[str, Any], control_ids: dict[str, int]) -> dict[str, Any]:
    """Return the tokenizer without its settings, and with control tokens that no text spells.

    The control tokens keep their places, because the ids of others depend on them.
    """
    names = {text: f"\U0010fffd{number}\U0010fffd" for text, number in control_ids.items()}
    added = [
        {**token, "content": names[token["content"]], "normalized": False} if token["content"] in names else token
        for token in content["added_tokens"]
    ]
    return {
        **content,
        "truncation": None,
        "padding": None,
        "post_processor": None,
        "added_tokens": added,
        "normalizer": _inside(content["normalizer"]),
        "pre_tokenizer": _inside(content["pre_tokenizer"]),
        "model": _renamed(content["model"], names),
    }


def _renamed(model: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Return the model with other names for some pieces, which no merge makes; merges are never left out at random."""
    names = {text: name for text, name in names.items() if not BYTE.fullmatch(text)}
    model = dict(model)
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(piece, piece): number for piece, number in model["vocab"].items()}
    else:  # Unigram has (piece, score), by id
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if "merges" in model:
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        model["merges"] = [pair for pair in pairs if not {*pair, "".join(pair)} & names.keys()]
        model["dropout"] = None
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    return model


def _inside(step: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a normalizer or pre-tokenizer that treats every text as the inside of a longer one; None does nothing."""
    if step is None or step["type"] in ("Prepend", "Strip"):
        return None
    step = dict(step)
    for steps in ("normalizers", "pretokenizers"):
        if steps in step:
            step[steps] = [kept for inner in step[steps] if (kept := _inside(inner)) is not None]
    if "add_prefix_space" in step:
        step["add_prefix_space"] = False
    if "prepend_scheme" in step:
        step["prepend_scheme"] = "never"
    return step
