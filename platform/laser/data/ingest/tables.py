"""Table files, read as streams: CSV, tab-separated text and Parquet. JSON lines are in `json_lines`."""

import csv as text_csv
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from laser.data.ingest.streams import line_blocks, line_of_row
from laser.errors import UserError

Kind = Literal["text", "time", "number"]
"""The wanted type of a column: text; int64 for times and float64 for numbers, and text where a batch does not fit."""
Kinds = Mapping[str, Kind]

MAX_LINE_BYTES = 1 << 20
"""Longest header or row; Arrow's default block."""
PARQUET_ROWS = 1 << 18
"""Rows of a Parquet file that are read at once."""


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Convert any column to text. Lists are joined with ", "; nulls become empty."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = pc.binary_join(column.cast(pa.list_(pa.string())), ", ")
    column = column.cast(pa.string())
    return pc.fill_null(column, "") if column.null_count else column


class TableFile(ABC):
    """A file of rows with named columns."""

    def __init__(self, path: Path, column_names: list[str]) -> None:
        self.path = path
        self.column_names = column_names

    @abstractmethod
    def batches(self, kinds: Kinds) -> Iterator[pa.Table]:
        """Read these columns, a few megabytes of rows at a time.

        Raises:
            UserError: the file is malformed or has no row; the message names the line.
        """

    @abstractmethod
    def where(self, row: int) -> str:
        """Return `file:line` of a row, for messages."""

    def require(self, name: str, key: str) -> str:
        """Return the column's name after checking that there is one such column.

        Args:
            name: the column.
            key: the setting of `data` that names another column.

        Raises:
            UserError: there is no such column, or there are two.
        """
        if self.column_names.count(name) == 1:
            return name
        has, what = ", ".join(self.column_names), "two columns" if name in self.column_names else "no column"
        raise UserError(f"{self.path}:1: {what} {name!r} (it has: {has}); add or rename one, or set data.{key}")

    def text(self, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """Convert a column of this file to text, as `as_text` does.

        Raises:
            UserError: the column holds structs, bytes or others that have no text.
        """
        try:
            text = as_text(column)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
            what = f"column {name!r} holds {column.type}"
            raise UserError(f"{self.path}:1: {what}; wanted text, numbers or lists of them") from error
        try:
            text.validate(full=True)  # a Parquet file may say "text" of any bytes
        except pa.ArrowInvalid as error:
            raise UserError(f"{self.path}:1: column {name!r} is not UTF-8; convert it") from error
        return text

    def read(self, names: list[str]) -> pa.Table:
        """Read whole columns as text; for small files."""
        return pa.concat_tables(self.batches(dict.fromkeys(names, "text")))


class DelimitedFile(TableFile):
    """A text file with a header. No type is guessed: columns are text unless the caller names another kind."""

    _TYPES: Mapping[Kind, pa.DataType] = {"text": pa.string(), "time": pa.int64(), "number": pa.float64()}

    def __init__(self, path: Path, delimiter: str, typed_header: bool) -> None:
        if not path.stat().st_size:
            raise UserError(f"{path}:1: empty file; wanted a header and rows")
        with path.open("rb") as file:
            line = file.readline(MAX_LINE_BYTES + 1)
        if len(line) > MAX_LINE_BYTES:
            raise UserError(f"{path}:1: a header of more than {MAX_LINE_BYTES} bytes; wanted the columns' names")
        try:
            header = line.decode("utf-8-sig").rstrip("\r\n")
            names = next(text_csv.reader([header], delimiter=delimiter, strict=True), [""])
        except UnicodeDecodeError as error:
            raise self._not_utf8(path) from error
        except text_csv.Error as error:
            raise UserError(f"{path}:1: {str(error).partition(' - ')[0]}; fix the header") from error
        super().__init__(path, [name.partition(":")[0] for name in names] if typed_header else names)
        self._format = csv.ParseOptions(delimiter=delimiter, quote_char=False if delimiter == "\t" else '"')
        self._all_text = False

    def batches(self, kinds: Kinds) -> Iterator[pa.Table]:
        rows = 0
        with self.path.open("rb") as file:
            file.readline()
            for block in line_blocks(file, self.path):
                if block.isspace():
                    continue
                table = self._parse(block, kinds, rows)
                rows += table.num_rows
                yield table
        if not rows:
            raise UserError(f"{self.path}:1: a header and no rows; wanted rows")

    def _parse(self, block: bytes, kinds: Kinds, first_row: int) -> pa.Table:
        if not self._all_text:
            try:
                return self._read(block, {name: self._TYPES[kind] for name, kind in kinds.items()}, threads=True)
            except pa.ArrowInvalid:
                self._all_text = True
        try:
            return self._read(block, dict.fromkeys(kinds, pa.string()), threads=True)
        except pa.ArrowInvalid:
            try:
                return self._read(block, dict.fromkeys(kinds, pa.string()), threads=False)  # Arrow names the row
            except pa.ArrowInvalid as error:
                raise self._unreadable(error, first_row) from error

    def _read(self, block: bytes, types: dict[str, pa.DataType], threads: bool) -> pa.Table:
        return csv.read_csv(
            pa.BufferReader(block),
            read_options=csv.ReadOptions(use_threads=threads, column_names=self.column_names),
            parse_options=self._format,
            convert_options=csv.ConvertOptions(
                column_types=types, include_columns=list(types), strings_can_be_null=False, null_values=[]
            ),
        )

    def _unreadable(self, error: Exception, first_row: int) -> UserError:
        message = str(error).splitlines()[0]
        if "straddling" in message:  # Arrow says so of a row that is longer than its blocks
            with self.path.open("rb") as file:
                long = next((number for number, line in enumerate(file, 1) if len(line) > MAX_LINE_BYTES), 1)
            return UserError(f"{self.path}:{long}: a row of more than {MAX_LINE_BYTES} bytes; shorten it")
        row = re.search(r"Row #(\d+): ", message)
        if row is None or "UTF8" in message:
            return self._not_utf8(self.path, message)
        return UserError(f"{self.where(first_row + int(row[1]) - 1)}: {message.replace(row[0], '')}; fix the row")

    @staticmethod
    def _not_utf8(path: Path, otherwise: str = "not a table") -> UserError:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as bad:
                    byte = f"byte {line[bad.start]:#04x}"
                    return UserError(f"{path}:{number}: {byte} is not UTF-8; save the file as UTF-8")
        return UserError(f"{path}:1: {otherwise}; fix it")

    def where(self, row: int) -> str:
        return f"{self.path}:{line_of_row(self.path, row + 1)}"


class ParquetFile(TableFile):
    """A Parquet file. Messages name a row by its number, from 1, in place of a line."""

    def __init__(self, path: Path) -> None:
        with self._reading(path):
            self._file = pq.ParquetFile(path)
            names = self._file.schema_arrow.names
        super().__init__(path, names)

    def batches(self, kinds: Kinds) -> Iterator[pa.Table]:
        if not self._file.metadata.num_rows:
            raise UserError(f"{self.path}:1: no rows; wanted rows")
        with self._reading(self.path):
            for batch in self._file.iter_batches(PARQUET_ROWS, columns=list(kinds)):
                yield pa.Table.from_batches([batch])

    @staticmethod
    @contextmanager
    def _reading(path: Path) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}:1: not a whole Parquet file ({reason}); write it again") from error

    def where(self, row: int) -> str:
        return f"{self.path}:{row + 1}"
