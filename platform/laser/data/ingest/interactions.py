"""Interactions as numbers, in pieces: in memory while they fit into their share of it, else in a file.

A piece is a record batch with the columns `user` and `item` (int32), and, where the source has them, `time` (int64) and
`split` (int8: 0 training, 1 validation, 2 test). Ten million timed interactions take 160 MB.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

RESERVED_MIB = 400
"""Set aside for buffers, what the allocators keep, and the ids of a million users; measured."""
MIN_TEXT_BYTES = 16 << 20
"""Text that waits to be numbered at the least: below it, hash tables are built anew too often."""


class Interactions:
    """Pieces that are appended first, then read by position.

    Args:
        folder: gets the file to which all pieces move once they are more than `limit` bytes.
        limit: bytes to hold in memory.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
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
            handle, self._path = tempfile.mkstemp(".arrow", dir=self.folder)
            os.close(handle)
            self._writer = pa.ipc.new_file(self._path, piece.schema)
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
            self._reader = pa.ipc.open_file(pa.OSFile(self._path))
        return self._reader.get_batch(number)

    def pop(self, number: int) -> pa.RecordBatch:
        """Read a piece for the last time; its memory is freed with the result."""
        piece = self[number]
        self._pieces[number] = None
        return piece


@dataclass(frozen=True)
class Workspace:
    """Where a preparation keeps what is too large for its memory."""

    folder: Path
    interactions_bytes: int
    """What a collection of interactions may hold in memory; at most two are alive at once."""
    text_bytes: int
    """How much text may wait to be numbered, while as much is being numbered."""

    @staticmethod
    def within(memory_mib: int, folder: Path) -> "Workspace":
        """Shares of `data.memory_mib`, once `RESERVED_MIB` are set aside."""
        free = max(0, memory_mib - RESERVED_MIB) << 20
        return Workspace(folder, free // 4, MIN_TEXT_BYTES + free // 16)

    def interactions(self) -> Interactions:
        """A new, empty collection."""
        return Interactions(self.folder, self.interactions_bytes)
