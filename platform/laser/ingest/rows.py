"""Where the rows of delimited text end: at the line breaks outside quotes, as pandas and Arrow read them.

A quote opens a quoted text only where a field begins. Inside it, two quotes are one of its characters, and one ends it.
A line break is a line feed, a carriage return, or both. Rows of blanks alone are no rows.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from laser.ingest.streams import line_blocks, open_text

SLICE_BYTES = 1 << 20
"""Text that is looked at at once. The arrays of a slice take at most some 30 times its size."""
TAIL_BYTES = 1 << 16
"""Text that is looked at first to find the last row."""
LF, CR, QUOTE, TAB, SPACE = b'\n\r"\t '


class Breaks(NamedTuple):
    """The line breaks of a part of a text."""

    ends: NDArray[np.int64]
    """Positions behind the breaks."""
    quoted: NDArray[np.bool_]
    """Which breaks are inside quotes."""
    inside: bool
    """Whether the part ends inside quotes."""
    known: int
    """From this position on, nothing depends on whether the part began inside quotes."""


class Rows:
    """Finds the rows of text with these delimiters, which begins where a row begins.

    Args:
        delimiters: the byte that ends a field, or several that may.
        quotes: whether quotes mean anything; without them, every line is a row.
    """

    def __init__(self, delimiters: str, quotes: bool) -> None:
        self.delimiters = delimiters.encode()
        self.quotes = quotes

    def last_end(self, text: bytes) -> int:
        """Return where the last whole row ends, or 0. A carriage return at the end may be half a line break."""
        if not self.quotes or QUOTE not in text:
            return max(text.rfind(b"\n"), text.rfind(b"\r", 0, -1)) + 1
        size = TAIL_BYTES
        while True:  # most often a field of the tail tells where quotes end, so that no more is looked at
            start = max(0, len(text) - size)
            start = len(text[:start].rstrip(b'"'))
            breaks = self._breaks(text, start, len(text), inside=False)
            known = 0 if start == 0 else breaks.known
            ends = breaks.ends[~breaks.quoted & (breaks.ends > known)]
            if len(ends) and ends[-1] == len(text) and text[-1] == CR:
                ends = ends[:-1]
            if len(ends) or not start:
                return int(ends[-1]) if len(ends) else 0
            size *= 8

    def first(self, text: bytes) -> tuple[int, int]:
        """Return where the first row that is not blank begins and ends; a text holds at least one."""
        starts, ends, blank = self._split(text)
        row = int(np.argmin(blank))
        return int(starts[row]), int(ends[row])

    def without_blank(self, text: bytes) -> bytes:
        """Return whole rows without the blank ones."""
        starts, ends, blank = self._split(text)
        kept = zip(starts[~blank], ends[~blank], strict=True)
        return b"".join(text[start:end] for start, end in kept) if blank.any() else text

    def blocks(self, path: Path, start: int) -> Iterator[bytes]:
        """Yield the rows of a file from this byte on, some megabytes at a time."""
        with open_text(path) as file:
            file.read(start)
            yield from line_blocks(file, path, self.last_end, start)

    def places(self, path: Path, start: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield block by block at which byte of the file each row begins, and how many bytes it has."""
        for block in self.blocks(path, start):
            starts, ends, blank = self._split(block)
            yield start + starts[~blank], (ends - starts)[~blank]
            start += len(block)

    def _split(self, text: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Return where rows begin and end, and which of them are blank."""
        ends = np.concatenate([breaks.ends[~breaks.quoted] for breaks in self._slices(text)])
        ends = np.append(ends, len(text)) if not len(ends) or ends[-1] < len(text) else ends
        starts = np.append(0, ends[:-1])
        blanks = [byte for byte in (LF, CR, SPACE, TAB) if byte not in self.delimiters]
        return starts, ends, ~np.logical_or.reduceat(~np.isin(np.frombuffer(text, np.uint8), blanks), starts)

    def _slices(self, text: bytes) -> Iterator[Breaks]:
        """Find the line breaks of parts that end behind a line feed, or with the text."""
        start, inside = 0, False
        while start < len(text):
            end = text.find(b"\n", start + SLICE_BYTES) + 1 or len(text)
            breaks = self._breaks(text, start, end, inside)
            yield breaks
            start, inside = end, breaks.inside

    def _breaks(self, text: bytes, start: int, end: int, inside: bool) -> Breaks:
        """Find the line breaks of a part, before which there is no quote. It may begin `inside` quotes."""
        whole = np.frombuffer(text, np.uint8)
        part = whole[start:end]
        last = np.flatnonzero((part == LF) | (part == CR)) + start
        last = last[(whole[last] == LF) | (whole[np.minimum(last + 1, len(text) - 1)] != LF)]
        quotes = np.flatnonzero(part == QUOTE) + start if self.quotes else last[:0]
        if not len(quotes):
            return Breaks(last + 1, np.full(len(last), inside), inside, end)
        first = np.diff(quotes, prepend=-2) > 1
        runs = quotes[first]  # a run of an even number of quotes changes nothing
        odd = np.diff(np.flatnonzero(first), append=len(quotes)) % 2 == 1
        begins = np.isin(whole[runs - 1], [*self.delimiters, LF, CR]) | (runs == 0)
        # Where a field may begin, an odd run opens or closes. Elsewhere it closes, or is text without quotes around it.
        toggles, outside = np.cumsum(odd & begins), odd & ~begins
        states = (toggles - np.maximum.accumulate(np.where(outside, toggles, -int(inside)))) % 2 == 1
        quoted = np.append(states, inside)[np.searchsorted(runs, last) - 1]
        known = int(runs[np.argmax(outside)]) if outside.any() else end
        return Breaks(last + 1, quoted, bool(states[-1]), known)
