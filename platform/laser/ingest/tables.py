"""Table files, read as streams: delimited text, gzipped or plain, and Parquet. JSON lines are in `json_lines`."""

import codecs
import csv as text_csv
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from laser.errors import UserError
from laser.ingest.rows import Rows
from laser.ingest.streams import BROKEN_GZIP, broken_gzip, line_of_byte, open_lines, open_text
from laser.ingest.texts import EXACT, MISSING, MISSING_IDS, as_text, without

Kind = Literal["text", "time", "number"]
"""The wanted type of a column: text; int64 for times and float64 for numbers, and text where a batch does not fit."""
Kinds = Mapping[str, Kind]

DELIMITERS = {",": "','", ";": "';'", "|": "'|'", "\t": "a tab"}
"""What may stand between the columns of a text file, and what messages call it."""
GZIP = b"\x1f\x8b"
"""The first bytes of a gzipped file."""
MAX_LINE_BYTES = 1 << 20
"""Longest header or row; Arrow's default block."""
PARQUET_ROWS = 1 << 18
"""Rows of a Parquet file that are read at once."""


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
        what = "two columns" if name in self.column_names else "no column"
        raise UserError(f"{self.path}:1: {what} {name!r} ({self.has()}); add or rename one, or set data.{key}")

    def has(self) -> str:
        """Return which columns the file has, for messages."""
        return f"it has: {', '.join(self.column_names)}"

    def text(self, name: str, column: pa.ChunkedArray, missing: tuple[str, ...] = MISSING) -> pa.ChunkedArray:
        """Convert a column of this file to text without blanks around it, as `as_text` does.

        Words for a missing value become empty.

        Raises:
            UserError: the column holds structs, bytes or others that have no text.
        """
        try:
            text = as_text(column)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
            what = f"column {name!r} holds {column.type}"
            wanted = "text, numbers or lists of them; convert it, or choose other columns by data.attributes"
            raise UserError(f"{self.path}:1: {what}; wanted {wanted}") from error
        try:
            text.validate(full=True)  # a Parquet file may say "text" of any bytes
        except pa.ArrowInvalid as error:
            raise UserError(f"{self.path}:1: column {name!r} is not UTF-8; convert it") from error
        return without(pc.utf8_trim_whitespace(text), missing)

    def ids(self, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """Convert a column of ids to text, as `text` does, but with pandas' list of words for a missing one.

        Raises:
            UserError: they are floats so large that different ids became equal.
        """
        exact = EXACT.get(column.type)
        if exact and pc.any(pc.greater_equal(pc.abs(column.cast(pa.float64())), exact)).as_py():
            what = f"column {name!r} holds floats of {exact} or more, which have lost digits of ids"
            raise UserError(f"{self.path}:1: {what}; write integers or text")
        return self.text(name, column, MISSING_IDS)

    def read(self, names: list[str]) -> pa.Table:
        """Read whole columns as text; for small files."""
        return pa.concat_tables(self.batches(dict.fromkeys(names, "text")))


class DelimitedFile(TableFile):
    """A text file with a header. No type is guessed: columns are text unless the caller names another kind.

    Args:
        path: the file; it is decompressed where its name ends in .gz.
        delimiter: stands between columns; None takes the one of `DELIMITERS` that is most frequent in the header.
        typed_header: whether names carry a type, as RecBole's do (`user_id:token`).
        names: of the columns, where the file has no header. Such a file has no quotes.
    """

    _TYPES: Mapping[Kind, pa.DataType] = {"text": pa.string(), "time": pa.int64(), "number": pa.float64()}

    def __init__(
        self, path: Path, delimiter: str | None, typed_header: bool, names: Sequence[str] | None = None
    ) -> None:
        header, self._start = self._header(path, names is None, not typed_header)
        self._delimiter = delimiter or _frequent_delimiter(header)
        if names is None:
            try:
                cells = text_csv.reader([header], delimiter=self._delimiter, strict=True, skipinitialspace=True)
                names = [name.strip() for name in next(cells, [""])]
            except text_csv.Error as error:
                raise UserError(f"{path}:1: {str(error).partition(' - ')[0]}; fix the header") from error
            quoted = not (typed_header and self._delimiter == "\t")
        else:
            quoted = False
        self._names = [name.partition(":")[0].strip() for name in names] if typed_header else list(names)
        super().__init__(path, self._names)
        self._rows = Rows(self._delimiter, quoted)
        self._format = csv.ParseOptions(delimiter=self._delimiter, quote_char='"' if quoted else False)
        self._all_text = False

    def _header(self, path: Path, named: bool, quoted: bool) -> tuple[str, int]:
        """Return the first row that is not blank, and at which byte the rows begin: behind it where it has names."""
        try:
            with open_text(path) as file:
                text = file.read(MAX_LINE_BYTES + 1)
        except BROKEN_GZIP as error:
            raise broken_gzip(path, error) from error
        if text.startswith(GZIP):
            raise UserError(f"{path}:1: gzipped, though its name does not say so; add .gz to the name")
        mark = len(codecs.BOM_UTF8) if text.startswith(codecs.BOM_UTF8) else 0
        if not text[mark:].strip():
            raise UserError(f"{path}:1: empty file; wanted a header and rows")
        begin, end = Rows("".join(DELIMITERS), named and quoted).first(text[mark:])
        if end > MAX_LINE_BYTES:
            raise UserError(f"{path}:1: a header of more than {MAX_LINE_BYTES} bytes; wanted the columns' names")
        try:
            header = self._decoded(text[mark + begin : mark + end]).decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise self._not_utf8(path) from error
        return header, mark + end if named else mark

    def _decoded(self, block: bytes) -> bytes:
        """Return whole lines as UTF-8 with columns apart by the delimiter. Other encodings override it."""
        return block

    def has(self) -> str:
        found = "split at " if len(self.column_names) > 1 else "not split by "
        return f"{found}{DELIMITERS.get(self._delimiter, repr(self._delimiter))}, {super().has()}"

    def batches(self, kinds: Kinds) -> Iterator[pa.Table]:
        rows = 0
        for block in self._blocks():
            table = self._parse(self._decoded(block), kinds, rows)
            rows += table.num_rows
            yield table
        if not rows:
            raise UserError(f"{self.path}:1: a header and no rows; wanted rows")

    def _blocks(self) -> Iterator[bytes]:
        try:
            yield from (block for block in self._rows.blocks(self.path, self._start) if not block.isspace())
        except BROKEN_GZIP as error:
            raise broken_gzip(self.path, error) from error

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
                rows = self._rows.without_blank(block)
                if len(rows) < len(block):
                    return self._parse(rows, kinds, first_row)
                raise self._unreadable(error, first_row) from error

    def _read(self, block: bytes, types: dict[str, pa.DataType], threads: bool) -> pa.Table:
        self._format.newlines_in_values = self._rows.quotes and b'"' in block
        return csv.read_csv(
            pa.BufferReader(block),
            read_options=csv.ReadOptions(use_threads=threads, column_names=self._names),
            parse_options=self._format,
            convert_options=csv.ConvertOptions(
                column_types=types, include_columns=list(types), strings_can_be_null=False, null_values=[]
            ),
        )

    def _unreadable(self, error: Exception, first_row: int) -> UserError:
        message = str(error).splitlines()[0]
        if "straddling" in message:  # Arrow says so of a row that is longer than its blocks
            places = self._rows.places(self.path, self._start)
            longest = max(((size.max(), start[size.argmax()]) for start, size in places if len(size)))
            what = f"a row of more than {MAX_LINE_BYTES} bytes; shorten it"
            return UserError(f"{self.path}:{line_of_byte(self.path, longest[1])}: {what}")
        row = re.search(r"Row #(\d+): ", message)
        if row is None or "UTF8" in message:
            return self._not_utf8(self.path, message)
        return UserError(f"{self.where(first_row + int(row[1]) - 1)}: {message.replace(row[0], '')}; fix the row")

    @staticmethod
    def _not_utf8(path: Path, otherwise: str = "not a table") -> UserError:
        position = 0
        with open_lines(path) as file:
            for line in file:
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as bad:
                    what = f"byte {line[bad.start]:#04x} is not UTF-8; save the file as UTF-8"
                    return UserError(f"{path}:{line_of_byte(path, position + bad.start)}: {what}")
                position += len(line)
        return UserError(f"{path}:1: {otherwise}; fix it")

    def where(self, row: int) -> str:
        for starts, _ in self._rows.places(self.path, self._start):
            if row < len(starts):
                return f"{self.path}:{line_of_byte(self.path, int(starts[row]))}"
            row -= len(starts)
        raise AssertionError("a row that the file does not have")


def _frequent_delimiter(header: str) -> str:
    """Return the delimiter that is most frequent outside quotes; a comma where there is none."""
    bare = re.sub(r'"[^"]*"', "", header)
    return max(DELIMITERS, key=bare.count)


class ParquetFile(TableFile):
    """A Parquet file. Messages name a row by its number, from 1, in place of a line."""

    def __init__(self, path: Path) -> None:
        with self._reading(path):
            # Nanoseconds since 1970 end in the year 2262, and wrap around in silence.
            self._file = pq.ParquetFile(path, coerce_int96_timestamp_unit="us")
            names = self._file.schema_arrow.names
            columns = map(self._file.schema.column, range(len(self._file.schema)))
            self._has_int96 = any(column.physical_type == "INT96" for column in columns)
        self.num_rows = self._file.metadata.num_rows
        super().__init__(path, names)

    def batches(self, kinds: Kinds) -> Iterator[pa.Table]:
        if not self.num_rows:
            raise UserError(f"{self.path}:1: no rows; wanted rows")
        with self._reading(self.path):
            files = [self._file, pq.ParquetFile(self.path)] if self._has_int96 else [self._file]
            for found in zip(*(file.iter_batches(PARQUET_ROWS, columns=list(kinds)) for file in files), strict=True):
                yield pa.Table.from_batches(found[-1:] if _are_nanoseconds(found[0]) else found[:1])

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


def _are_nanoseconds(microseconds: pa.RecordBatch) -> bool:
    """Whether 64 bits hold all times of a batch as nanoseconds since 1970 too."""
    times = [column.cast(pa.int64()) for column in microseconds if column.type == pa.timestamp("us")]
    return all(pc.all(pc.less(pc.abs(column), 1 << 53)).as_py() is not False for column in times)
