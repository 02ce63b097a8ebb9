"""A folder of Parquet files that are one table, as Spark, Dask and Polars write it."""

from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pyarrow as pa

from laser.errors import UserError
from laser.ingest.tables import Kinds, ParquetFile, TableFile


class ParquetParts(TableFile):
    """The Parquet files of a folder, read in the order of their names. Empty ones are passed over."""

    def __init__(self, path: Path) -> None:
        files = [ParquetFile(part) for part in sorted(path.glob("*.parquet")) if not part.name.startswith((".", "_"))]
        self._files = [file for file in files if file.num_rows]
        if not self._files:
            raise UserError(f"{path}: a folder without rows in files *.parquet; put the parts there, not in folders")
        first = self._files[0]
        for file in self._files:
            if file.column_names != first.column_names:
                raise UserError(f"{file.path}:1: {file.has()}, unlike {first.path.name}; write the parts alike")
        self._ends = list(accumulate(file.num_rows for file in self._files))
        super().__init__(path, first.column_names)

    def batches(self, kinds: Kinds) -> Iterator[pa.Table]:
        for file in self._files:
            yield from file.batches(kinds)

    def where(self, row: int) -> str:
        file, end = next((file, end) for file, end in zip(self._files, self._ends, strict=True) if row < end)
        return file.where(row - end + file.num_rows)
