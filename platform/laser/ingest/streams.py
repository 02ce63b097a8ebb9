"""Text files as streams of whole lines, gzipped or plain, and work that threads do in advance."""

import gzip
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import pyarrow as pa

from laser.errors import UserError

S = TypeVar("S")
T = TypeVar("T")

BROKEN_GZIP = (OSError, EOFError, zlib.error)
"""What reading a file that is no whole gzip file raises."""
BLOCK_BYTES = 16 << 20
"""Text that is read at once. Arrow cuts it into pieces of 1 MiB for its threads."""
THREADS = min(4, len(os.sched_getaffinity(0)))
"""Threads of our own. They are few, because each has a piece of work in memory."""


def open_text(path: Path) -> BinaryIO:
    """Open a file as bytes. They are decompressed where its name ends in .gz."""
    file: BinaryIO = pa.CompressedInputStream(pa.OSFile(str(path)), "gzip") if path.suffix == ".gz" else path.open("rb")
    return file


def open_lines(path: Path) -> BinaryIO:
    """Open a file as `open_text` does, but slower, and so that it can be read line by line."""
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def last_line_feed(text: bytes) -> int:
    """Return where the last whole line ends, or 0."""
    return text.rfind(b"\n") + 1


def line_blocks(
    file: BinaryIO, path: Path, last_end: Callable[[bytes], int] = last_line_feed, position: int = 0
) -> Iterator[bytes]:
    """Yield whole rows, about `BLOCK_BYTES` at a time. The next block is read while one is used.

    Args:
        file: what is left to read.
        path: its path, for messages.
        last_end: returns where the last whole row of a text ends, or 0; a row is a line unless it says otherwise.
        position: bytes that were read before.

    Raises:
        UserError: a row is longer than a block or does not end, so that the file cannot be a table.
    """
    with ThreadPoolExecutor(1) as thread:
        blocks = _line_blocks(file, path, last_end, position)
        coming = thread.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = thread.submit(next, blocks, None)
            yield block


def _line_blocks(file: BinaryIO, path: Path, last_end: Callable[[bytes], int], position: int) -> Iterator[bytes]:
    rest = b""
    while content := file.read(BLOCK_BYTES):
        content = rest + content
        cut = last_end(content)
        rest = content[cut:]
        position += cut
        if cut:
            yield content[:cut]
        elif len(rest) > BLOCK_BYTES:
            what = f"a line of more than {BLOCK_BYTES} bytes; wanted a row a line"
            what += ", and quotes that are closed" if b"\n" in rest else ""
            raise UserError(f"{path}:{line_of_byte(path, position)}: {what}")
    if rest and not last_end(rest + b"\n"):
        raise UserError(f"{path}:{line_of_byte(path, position)}: a quote that is never closed; close or remove it")
    if rest:
        yield rest


def line_of_byte(path: Path, position: int) -> int:
    """Return the line, counted from 1, that holds a byte of a file. Messages name it.

    A line ends with a line feed, a carriage return, or both, as in editors.
    """
    line, before = 1, b""
    with open_text(path) as file:
        while text := file.read(min(position, BLOCK_BYTES)):
            line += text.count(b"\n") + text.count(b"\r") - (before[-1:] + text).count(b"\r\n")
            position -= len(text)
            before = text
    return line


def broken_gzip(path: Path, error: Exception) -> UserError:
    """Make the error for a file that cannot be decompressed. It names the line at which the file breaks."""
    reason = error
    number = 0
    try:
        with gzip.open(path) as file:
            for number, _ in enumerate(file, start=1):  # noqa: B007, the last one is wanted
                pass
    except BROKEN_GZIP as found:
        reason = found
    return UserError(f"{path}:{number + 1}: not a whole gzip file ({reason}); fetch it again")


def line_of_row(path: Path, row: int, blank: bytes = b"\r\n") -> int:
    """Return the line, counted from 1, that holds a row, counted from 0. Messages name it.

    Lines that hold only `blank` bytes are no rows.
    """
    with open_lines(path) as file:
        numbers = (number for number, line in enumerate(file, start=1) if line.strip(blank))
        return next(islice(numbers, row, None))


def prefetch(work: Callable[[S], T], inputs: Iterable[S], threads: int = THREADS) -> Iterator[T]:
    """Map `work` over `inputs` in order. Threads make at most `threads` results in advance."""
    with ThreadPoolExecutor(threads) as pool:
        coming: deque[Future[T]] = deque()
        for given in inputs:
            if len(coming) == threads:
                yield coming.popleft().result()
            coming.append(pool.submit(work, given))
        while coming:
            yield coming.popleft().result()
