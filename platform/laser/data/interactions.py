"""Interactions as numbers, in pieces: in memory while they fit into their share of it, else in a file.

A piece is a record batch with the columns `user` and `item` (int32), and, where the source has them, `time` (int64) and
`split` (int8: 0 training, 1 validation, 2 test). Ten million timed interactions take 160 MB.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from laser.config.errors import UserError

PIECE_ROWS = 1 << 20
"""Rows of a piece that a source appends; 16 MiB with times."""


class Interactions:
    """Pieces that are appended first, then read by position.

    Args:
        path: the file to which all pieces move once they are more than `limit` bytes.
        limit: bytes to hold in memory.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.limit = limit
        self.num_rows = 0
        self._pieces: list[pa.RecordBatch | None] = []
        self._bytes = 0
        self._writer: pa.ipc.RecordBatchFileWriter | None = None
        self._reader: pa.ipc.RecordBatchFileReader | None = None

    @property
    def spilled(self) -> bool:
        """Whether the pieces are in the file."""
        return self._writer is not None

    def __len__(self) -> int:
        return len(self._pieces)

    def append(self, piece: pa.RecordBatch) -> None:
        """Add a piece behind the others; not after the first one has been read."""
        assert self._reader is None
        self.num_rows += piece.num_rows
        self._bytes += piece.nbytes
        self._pieces.append(piece)
        if self._writer is None and self._bytes > self.limit:
            self._writer = pa.ipc.new_file(str(self.path), piece.schema)
            for number in range(len(self._pieces) - 1):
                self._write(number)
        if self._writer is not None:
            self._write(len(self._pieces) - 1)

    def _write(self, number: int) -> None:
        self._writer.write_batch(self._pieces[number])  # type: ignore[union-attr]
        self._pieces[number] = None

    def __getitem__(self, number: int) -> pa.RecordBatch:
        if self._writer is None:
            return self._pieces[number]
        if self._reader is None:
            self._writer.close()
            # Read, not mapped: pages of a mapped file would count as this process's memory.
            self._reader = pa.ipc.open_file(pa.OSFile(str(self.path)))
        return self._reader.get_batch(number)

    def pop(self, number: int) -> pa.RecordBatch:
        """Read a piece for the last time; its memory is freed with the result."""
        piece = self[number]
        self._pieces[number] = None
        return piece


@dataclass(frozen=True)
class Workspace:
    """Where a preparation keeps what is too large for its memory.

    At most two collections of interactions are alive at once, so half of the memory is theirs. An eighth is for text
    that waits to be numbered; the rest is for what is being worked on, user ids and items.
    """

    folder: Path
    memory_bytes: int

    def interactions(self, name: str) -> Interactions:
        """A new, empty collection."""
        return Interactions(self.folder / f"{name}.arrow", self.memory_bytes // 4)

    @property
    def text_bytes(self) -> int:
        """How much text may wait to be numbered."""
        return self.memory_bytes // 8


class Numbers:
    """Texts numbered in order of their first appearance, behind those that are known from the start."""

    def __init__(self, known: pa.Array) -> None:
        self.texts = known
        """The text of each number."""

    def of(self, columns: Iterable[pa.ChunkedArray]) -> NDArray[np.int32]:
        """The number of each text; new ones get the next numbers."""
        texts = [chunk for column in columns for chunk in column.chunks]
        # One hash table for the known texts and all new ones: the known come first, so that they keep their numbers.
        encoded = pa.chunked_array([self.texts, *texts]).dictionary_encode()
        num_known = len(self.texts)
        self.texts = encoded.chunk(0).dictionary
        return np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])[num_known:]


class Collector:
    """Numbers the users and items of a source's rows and gathers them as interactions.

    Rows wait until there is enough text, because the hash tables are built anew each time.

    Args:
        workspace: of the preparation.
        item_ids: raw ids of the items; an interaction's item is a position in it.
        unknown_item: makes an error of the row and raw id of an item that is not among them; None leaves such
            interactions out and counts them.
    """

    def __init__(
        self, workspace: Workspace, item_ids: pa.Array, unknown_item: Callable[[int, str], UserError] | None = None
    ) -> None:
        self.interactions = workspace.interactions("read")
        self.num_rows = 0
        """Rows seen so far."""
        self.num_unknown = 0
        """Interactions left out because their item is unknown."""
        self._text_bytes = workspace.text_bytes
        self._num_items = len(item_ids)
        self._unknown_item = unknown_item
        self._users = Numbers(pa.array([], pa.string()))
        self._items = Numbers(item_ids)
        self._waiting: list[tuple[pa.ChunkedArray, pa.ChunkedArray, NDArray[np.int64], NDArray[np.bool_] | None]] = []
        self._waiting_bytes = 0

    def add(
        self,
        users: pa.ChunkedArray,
        items: pa.ChunkedArray,
        times: NDArray[np.int64],
        keep: NDArray[np.bool_] | None = None,
    ) -> None:
        """Take rows: raw ids, times, and which of them count (all where it is None)."""
        self._waiting.append((users, items, times, keep))
        self._waiting_bytes += users.nbytes + items.nbytes
        if self._waiting_bytes >= self._text_bytes:
            self._number()

    def users(self) -> pa.Array:
        """End the collection: raw ids of the users, by number."""
        if self._waiting:
            self._number()
        return self._users.texts

    def _number(self) -> None:
        user_texts, item_texts, time_parts, keep_parts = zip(*self._waiting, strict=True)
        with ThreadPoolExecutor(1) as thread:  # hashing frees the interpreter's lock
            users: Future[NDArray[np.int32]] = thread.submit(self._users.of, user_texts)
            items = self._items.of(item_texts)
            columns = [users.result(), items, np.concatenate(time_parts)]
        keep = self._known(items)
        if any(part is not None for part in keep_parts):
            parts = zip(keep_parts, time_parts, strict=True)
            keep &= np.concatenate([np.ones(len(t), dtype=bool) if part is None else part for part, t in parts])
        if not keep.all():
            columns = [column[keep] for column in columns]
        gathered = pa.record_batch([pa.array(column) for column in columns], names=["user", "item", "time"])
        for start in range(0, gathered.num_rows, PIECE_ROWS):
            self.interactions.append(gathered.slice(start, PIECE_ROWS))
        self.num_rows += len(items)
        self._waiting, self._waiting_bytes = [], 0

    def _known(self, items: NDArray[np.int32]) -> NDArray[np.bool_]:
        known = items < self._num_items
        if self._unknown_item is not None and not known.all():
            row = int(np.argmin(known))
            raise self._unknown_item(self.num_rows + row, self._items.texts[items[row]].as_py())
        self.num_unknown += len(items) - int(known.sum())
        return known
