"""Values of any type as text, and text of web pages as a reader sees it."""

import html
import json
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MISSING = ("nan", "NaN", "<NA>", "NaT", "None", "null", "NULL")
"""What programs write for a value that is missing, where they write text."""
MISSING_IDS = (
    *MISSING,
    *("#N/A", "#N/A N/A", "#NA", "N/A", "NA", "n/a", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
)
"""Beside these, what pandas reads as missing. A title may be one of them, an id hardly."""
EXACT = {pa.float16(): 1 << 11, pa.float32(): 1 << 24, pa.float64(): 1 << 53}
"""Whole numbers up to these are exact as floats."""

_INLINE = "a|abbr|b|big|cite|del|em|font|i|ins|mark|nobr|s|small|span|strike|strong|sub|sup|tt|u|wbr"
_BLOCK = (
    "article|blockquote|body|br|button|center|d[dlt]|div|form|h[1-6]|head|header|hr|html|iframe|img|input|label|li|link"
    "|meta|ol|option|p|pre|section|select|table|tbody|td|tfoot|th|thead|tr|ul"
)
_ENTITY = re.compile(r"&(?:#\d+|#x[0-9a-f]+|[a-z]\w*);", re.IGNORECASE)
_HIDDEN = re.compile(r"<!--.*?-->|<(script|style)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(rf"</?(?:({_INLINE})|{_BLOCK})(?:\s[^<>]*)?/?>", re.IGNORECASE)  # others are text, as in "I <3 you"
_PAGE_SOURCE = re.compile(
    r"getTime|<script\b|<style\b|\bvar \w+ ?=|\bfunction ?\w*\([\w, ]*\) ?\{"
    r"|\bdocument\.write\(|\bP\.when\(|(?:^|[\s}])[.#@][a-z][^{}]*\{\s*[a-z-]+\s*:[^{}]*\}",  # the last: a style sheet
    re.IGNORECASE,
)
_SUSPECT = r"&[#\w]+;|<|[^\S ]|  |\x{a0}|getTime|var |function ?\w*\(|document\.write\(|P\.when\(|[.#@]\w[^{}]*\{"
"""What `clean` may change."""


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Convert any column to text. What is missing becomes empty.

    Lists are joined with ", ", without what is missing or blank in them. Whole floats and decimals lose their point.
    """
    if any(is_kind(column.type) for is_kind in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)):
        return pa.chunked_array([_joined(chunk) for chunk in column.chunks], pa.string())
    text = _float_text(column) if pa.types.is_floating(column.type) else column.cast(pa.string())
    if pa.types.is_decimal(column.type):
        text = pc.replace_substring_regex(text, r"\.0+$", "")
    return pc.fill_null(text, "") if text.null_count else text


def _joined(lists: pa.ListArray) -> pa.Array:
    if pa.types.is_nested(lists.type.value_type):
        raise pa.ArrowNotImplementedError("lists of lists")
    texts = as_text(pa.chunked_array([pc.list_flatten(lists)])).combine_chunks()
    kept = pc.invert(pc.is_in(pc.utf8_trim_whitespace(texts), pa.array(["", *MISSING])))
    counts = np.bincount(pc.list_parent_indices(lists).filter(kept).to_numpy(), minlength=len(lists))
    offsets = pa.array(np.append(0, counts.cumsum()), pa.int32())
    return pc.binary_join(pa.ListArray.from_arrays(offsets, texts.filter(kept)), ", ")


def _float_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    column = column.cast(pa.float32()) if column.type == pa.float16() else column
    whole = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), EXACT[column.type]))
    integers = pc.if_else(whole, column, pa.scalar(None, column.type)).cast(pa.int64())
    others = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    return pc.coalesce(integers.cast(pa.string()), others.cast(pa.string()))  # Arrow writes 1e10 for 10000000000.0


def value_text(value: Any) -> str:
    """Convert a value of JSON to text, as `as_text` does. An object becomes JSON."""
    if isinstance(value, list):
        return ", ".join(text for text in map(value_text, value) if text.strip() not in ("", *MISSING))
    if isinstance(value, float):
        text: str = as_text(pa.chunked_array([[value]]))[0].as_py()
        return text
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def without(texts: pa.ChunkedArray, words: tuple[str, ...]) -> pa.ChunkedArray:
    """Make the texts empty that are one of these words."""
    found = pc.is_in(texts, pa.array(words))
    return pc.if_else(found, "", texts) if pc.any(found).as_py() else texts


def clean(texts: pa.ChunkedArray) -> tuple[pa.ChunkedArray, int, int]:
    """Turn text of web pages into what a reader sees: no entities, markup, line breaks or runs of blanks.

    The parts of a list that have no text otherwise go.

    Returns:
        the texts, how many changed, and how many of these were page source, which becomes empty.
    """
    suspect = pc.match_substring_regex(texts, _SUSPECT).combine_chunks()
    old = texts.filter(suspect).to_pylist()
    new = [_clean(text) for text in old]
    cleaned = pc.replace_with_mask(texts.combine_chunks(), suspect, pa.array(new, pa.string()))
    num_changed = sum(before != after for before, after in zip(old, new, strict=True))
    return pa.chunked_array([cleaned]), num_changed, sum(_is_page_source(text) for text in old)


def num_with_markup(texts: pa.ChunkedArray) -> int:
    """Count the texts that `clean` changes by more than blanks."""
    suspect = pc.match_substring_regex(texts, _SUSPECT)
    return sum(_clean(text) != _tidy(text) for text in texts.filter(suspect).to_pylist())


def _clean(text: str) -> str:
    if _is_page_source(text):
        return ""
    text = _HIDDEN.sub(" ", _unescaped(text))
    return _tidy(_TAG.sub(lambda tag: "" if tag[1] else " ", text))


def _tidy(text: str) -> str:
    parts = (" ".join(part.split()) for part in text.split(", "))
    return ", ".join(part for part in parts if part)


def _is_page_source(text: str) -> bool:
    return _PAGE_SOURCE.search(_unescaped(text)) is not None


def _unescaped(text: str) -> str:
    """Resolve entities, also those that were escaped twice."""
    while (resolved := _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)) != text:
        text = resolved
    return text
