"""Tables of a prepared dataset, written and hashed piece by piece."""

import hashlib
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from laser.data.ingest.interactions import Interactions
from laser.data.ingest.order import Core
from laser.data.ingest.streams import ahead

NUM_HELD_OUT = 2
"""Items of a user that are held out: validation and test."""


class TableWriter:
    """A Parquet file, written a row group at a time, and the hash of what it holds.

    Args:
        path: the file.
        repetitive: columns repeat their values, so that dictionaries of them pay.
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
    """A file that only hashes what is written to it."""

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
    target: Path, raw_ids: pa.Array, blocks: Interactions, core: Core, id_of_item: NDArray[np.int32]
) -> tuple[int, bytes]:
    """Write `sequences.parquet` and `splits.parquet`, a row group per block.

    Args:
        target: folder to write to.
        raw_ids: of the users, by number.
        blocks: users' interactions in time order.
        core: which of them stay.
        id_of_item: the new id of each item.

    Returns:
        how many users are left, and the hashes of both tables.
    """

    def make(block: pa.RecordBatch) -> tuple[dict[str, Any], dict[str, Any]]:
        return _tables(block, core.rows(block), raw_ids, id_of_item)

    num_users = 0
    # Dictionaries of ids and times take as much room, twice the time to write and three times the time to read.
    sequences, splits = (TableWriter(target / f"{name}.parquet", repetitive=False) for name in ("sequences", "splits"))
    with sequences, splits:
        for columns, ends in ahead(make, (blocks[number] for number in range(len(blocks)))):
            size = len(ends["test_end"])
            if size:
                user_ids = {"user_id": pa.array(np.arange(num_users, num_users + size, dtype=np.int32))}
                sequences.write(pa.table(user_ids | columns))
                splits.write(pa.table(user_ids | ends))
                num_users += size
    return num_users, sequences.digest.digest() + splits.digest.digest()


def _tables(
    block: pa.RecordBatch, rows: NDArray[np.int64], raw_ids: pa.Array, id_of_item: NDArray[np.int32]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Columns of the block's users: sequences, and where their splits end."""
    column = {name: block.column(name).to_numpy()[rows] for name in block.schema.names}
    starts = np.flatnonzero(np.diff(column["user"], prepend=-1))
    counts = np.diff(starts, append=len(rows))
    offsets = np.append(starts, len(rows)).astype(np.int32)
    sequences = {
        "raw_id": raw_ids.take(pa.array(column["user"][starts])),
        "items": pa.ListArray.from_arrays(offsets, pa.array(id_of_item[column["item"]])),
        "timestamps": pa.ListArray.from_arrays(offsets, pa.array(column["time"]))
        if "time" in column
        else pa.nulls(len(starts), pa.list_(pa.int64())),
    }
    return sequences, _split_ends(column.get("split"), starts, counts)


def _split_ends(
    split: NDArray[np.int8] | None, starts: NDArray[np.int64], counts: NDArray[np.int64]
) -> dict[str, pa.Array]:
    """Positions in each user's sequence at which training, validation and test end."""
    if split is None:  # leave one out; who has fewer than three interactions only trains
        held_out = np.where(counts > NUM_HELD_OUT, NUM_HELD_OUT, 0)
        train = counts - held_out
        val = train + held_out // NUM_HELD_OUT
    elif len(starts):
        train = np.add.reduceat(split == 0, starts)
        val = train + np.add.reduceat(split == 1, starts)
    else:
        train = val = counts
    ends = {"train_end": train, "val_end": val, "test_end": counts}
    return {name: pa.array(values.astype(np.int32)) for name, values in ends.items()}
