"""Writes the tables of a prepared dataset piece by piece, and hashes them."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from laser.data.splits import Ends, Sequences
from laser.ingest.interactions import Interactions
from laser.ingest.order import Core
from laser.ingest.streams import prefetch


class TableWriter:
    """A Parquet file that is written a row group at a time, and the hash of its content.

    Args:
        path: the file.
        repetitive: whether columns repeat their values, so that dictionaries of them save room.
    """

    def __init__(self, path: Path, repetitive: bool) -> None:
        self.path = path
        self.repetitive = repetitive
        self.digest = hashlib.sha256()
        self._parquet: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        """Append a row group."""
        if self._parquet is None:
            self._parquet = pq.ParquetWriter(self.path, table.schema, use_dictionary=self.repetitive)
            self._stream = pa.ipc.new_stream(_HashSink(self.digest), table.schema)
        self._parquet.write_table(table)
        self._stream.write_table(table.combine_chunks())

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._parquet is not None:
            self._parquet.close()
            self._stream.close()


class _HashSink:
    """A file object that hashes what is written to it and keeps nothing."""

    closed = False

    def __init__(self, digest: "hashlib._Hash") -> None:
        self.digest = digest

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return len(content)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def write_users(
    target: Path,
    raw_ids: pa.Array,
    blocks: Interactions,
    core: Core,
    id_of_item: NDArray[np.int32],
    split: Callable[[Sequences], Ends],
) -> tuple[int, int, bytes]:
    """Write `sequences.parquet` and `splits.parquet`, a row group per block.

    Args:
        target: the folder to write to.
        raw_ids: raw id of each user, by number.
        blocks: users' interactions in time order.
        core: says which interactions stay.
        id_of_item: the new id of each item.
        split: divides the sequences of whole users.

    Returns:
        the numbers of users and interactions that are left, and the hashes of both tables.
    """

    def make(block: pa.RecordBatch) -> tuple[dict[str, Any], dict[str, NDArray[np.int32]]]:
        return _tables(block, core.rows(block), raw_ids, id_of_item, split)

    num_users = num_interactions = 0
    # With dictionaries, ids and times take as much room, twice the time to write and three times the time to read.
    sequences, splits = (TableWriter(target / f"{name}.parquet", repetitive=False) for name in ("sequences", "splits"))
    with sequences, splits:
        for columns, ends in prefetch(make, (blocks[number] for number in range(len(blocks)))):
            size = len(ends["test_end"])
            if size:
                user_ids = {"user_id": pa.array(np.arange(num_users, num_users + size, dtype=np.int32))}
                sequences.write(pa.table(user_ids | columns))
                splits.write(pa.table(user_ids | {name: pa.array(values) for name, values in ends.items()}))
                num_users += size
                num_interactions += int(ends["test_end"].sum())
    return num_users, num_interactions, sequences.digest.digest() + splits.digest.digest()


def _tables(
    block: pa.RecordBatch,
    rows: NDArray[np.int64],
    raw_ids: pa.Array,
    id_of_item: NDArray[np.int32],
    split: Callable[[Sequences], Ends],
) -> tuple[dict[str, Any], dict[str, NDArray[np.int32]]]:
    """Return the columns of the block's users: of sequences, and of the ends of their splits."""
    column = {name: block.column(name).to_numpy()[rows] for name in block.schema.names}
    starts, counts = _users(column["user"])
    ends = split(Sequences(starts, counts, column["item"], column.get("time"), column.get("split")))
    if ends.kept_R is not None:
        column = {name: values[ends.kept_R] for name, values in column.items()}
        starts, counts = _users(column["user"])
    offsets = np.append(starts, len(column["user"])).astype(np.int32)
    sequences = {
        "raw_id": raw_ids.take(pa.array(column["user"][starts])),
        "items": pa.ListArray.from_arrays(offsets, pa.array(id_of_item[column["item"]])),
        "timestamps": pa.ListArray.from_arrays(offsets, pa.array(column["time"]))
        if "time" in column
        else pa.nulls(len(starts), pa.list_(pa.int64())),
    }
    positions = {"train_end": ends.train_U, "val_end": ends.val_U, "test_end": counts}
    return sequences, {name: values.astype(np.int32) for name, values in positions.items()}


def _users(user_R: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first row of each user, and how many there are."""
    starts = np.flatnonzero(np.diff(user_R, prepend=-1))
    return starts, np.diff(starts, append=len(user_R))
