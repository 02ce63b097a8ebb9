"""Interactions as numbers, in pieces. They stay in memory while they fit into their part of it, and else go to a file.

A piece is a record batch with the columns `user` and `item` (int32). Where the source has them, it also has `time`
(int64) and `split` (int8: 0 training, 1 validation, 2 test). Ten million timed interactions take 160 MB.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

RESERVED_MIB = 400
"""Memory for buffers, for what the allocators keep, and for the ids of a million users; measured."""
MIN_TEXT_BYTES = 16 << 20
"""Least text that waits before it is numbered. With less, hash tables would be built anew too often."""


class Interactions:
    """Pieces of interactions that are first appended and then read by position.

    Args:
        folder: holds the file to which all pieces move once they are more than `limit` bytes.
        limit: most bytes in memory.
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
        """Add a piece behind the others. No piece may have been read before."""
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
        """Read a piece for the last time. Its memory is freed with the returned piece."""
        piece = self[number]
        self._pieces[number] = None
        return piece


@dataclass(frozen=True)
class Workspace:
    """Where a preparation keeps the data that do not fit into its memory."""

    folder: Path
    interactions_bytes: int
    """Most bytes of a collection of interactions in memory; at most two collections are alive at once."""
    text_bytes: int
    """Most bytes of text that wait to be numbered; as many are being numbered meanwhile."""

    @staticmethod
    def within(memory_mib: int, folder: Path) -> "Workspace":
        """Divide `data.memory_mib` up, without `RESERVED_MIB`."""
        free = max(0, memory_mib - RESERVED_MIB) << 20
        return Workspace(folder, free // 4, MIN_TEXT_BYTES + free // 16)

    def interactions(self) -> Interactions:
        """Make a new, empty collection."""
        return Interactions(self.folder, self.interactions_bytes)
