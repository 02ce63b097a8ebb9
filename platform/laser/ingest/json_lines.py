"""Files of JSON lines, gzipped or plain, read as streams.

Arrow parses blocks of lines and skips the fields that are not needed. Where it refuses a block, Python's parser reads
the block line by line. It accepts uneven fields, a list in one line and a text in another, and names the wrong line.
"""

import codecs
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json as arrow_json

from laser.errors import UserError
from laser.ingest.streams import broken_gzip, line_blocks, line_of_row, open_text
from laser.ingest.tables import Kinds, TableFile
from laser.ingest.texts import as_text, value_text

SAMPLE_LINES = 2000
"""Lines that are read to find the fields and their types."""
MAX = 1 << 63
NULL_LINE = re.compile(rb"\n[ \t\r]*null")
"""Arrow 25 crashes the process (SIGSEGV) where a piece of its input begins with a null."""
BLANK = b" \t\r\n"


class JsonLinesFile(TableFile):
    """A file with one JSON object on each line. Missing fields are null; lists become text joined with ", "."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_text(path) as file:
            block = next(self._blocks(file), b"")
        sample: dict[str, Any] = {}
        for row, line in enumerate(_lines(block.split(b"\n", SAMPLE_LINES)[:SAMPLE_LINES])):
            for name, value in self._object(line, row).items():
                if sample.get(name) in (None, []):
                    sample[name] = value
        if not sample:
            raise UserError(f"{path}:1: empty file; wanted a JSON object a line")
        super().__init__(path, list(sample))
        self._sample = sample

    def batches(self, kinds: Kinds) -> Iterator[pa.Table]:
        schema = pa.schema([(name, self._type(name, kind)) for name, kind in kinds.items()])
        rows = 0
        with open_text(self.path) as file:
            for block in self._blocks(file):
                table = self._parse(block, schema, kinds, rows)
                rows += table.num_rows
                yield table

    def _blocks(self, file: Any) -> Iterator[bytes]:
        try:
            yield from (block for block in line_blocks(file, self.path) if not block.isspace())
        except OSError as error:
            raise broken_gzip(self.path, error) from error

    def _type(self, name: str, kind: str) -> pa.DataType:
        value = self._sample[name]
        if isinstance(value, list):
            return pa.list_(pa.string())
        if isinstance(value, str) or value is None:
            return pa.string()
        return pa.float64() if kind == "number" or isinstance(value, float) else pa.int64()

    def _parse(self, block: bytes, schema: pa.Schema, kinds: Kinds, first_row: int) -> pa.Table:
        try:
            if block.lstrip(BLANK).startswith(b"null") or NULL_LINE.search(block):
                raise pa.ArrowInvalid("a line that is null")
            if not block.isascii():
                block.decode("utf-8")  # Arrow does not check
            table = arrow_json.read_json(
                pa.BufferReader(block),
                parse_options=arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
            )
        except (pa.ArrowInvalid, UnicodeDecodeError):
            objects = [self._object(line, first_row + row) for row, line in enumerate(_lines(block.split(b"\n")))]
            table = pa.table({field.name: self._column(objects, field, kinds, first_row) for field in schema})
        columns = {name: as_text(table[name]) if kind == "text" else table[name] for name, kind in kinds.items()}
        return pa.table(columns)

    def _object(self, line: bytes, row: int) -> dict[str, Any]:
        try:
            value = json.loads(line.removeprefix(codecs.BOM_UTF8).decode("utf-8"))
        except UnicodeDecodeError as error:
            byte = f"byte {line[error.start]:#04x}"
            raise UserError(f"{self.where(row)}: {byte} is not UTF-8; save the file as UTF-8") from error
        except json.JSONDecodeError as error:
            text = line.decode("utf-8")[:40]
            raise UserError(f"{self.where(row)}: {text!r} is not JSON ({error.msg}); fix or remove it") from error
        except RecursionError as error:
            raise UserError(f"{self.where(row)}: nested too deeply; fix or remove it") from error
        except ValueError as error:  # an integer of thousands of digits
            raise UserError(f"{self.where(row)}: {str(error).partition(';')[0]}; fix or remove it") from error
        if not isinstance(value, dict):
            raise UserError(f"{self.where(row)}: holds a {type(value).__name__}; wanted a JSON object")
        return value

    def _column(self, objects: list[dict[str, Any]], field: pa.Field, kinds: Kinds, first_row: int) -> pa.Array:
        values = [value.get(field.name) for value in objects]
        if pa.types.is_floating(field.type):
            values = [_float(value) if type(value) is int else value for value in values]
        if kinds[field.name] == "text" or pa.types.is_string(field.type):
            texts = [None if value is None else value_text(value) for value in values]
            try:
                return pa.array(texts, pa.string())
            except UnicodeEncodeError as error:
                where = self.where(first_row + texts.index(error.object))
                what = f"{field.name} {error.object!r} holds half a character (a lone surrogate)"
                raise UserError(f"{where}: {what}; fix it") from error
        whole = pa.types.is_integer(field.type)
        for row, value in enumerate(values):
            fraction = isinstance(value, float) and (not whole or kinds[field.name] == "time" and math.isfinite(value))
            if value is not None and not fraction and not (type(value) is int and -MAX <= value < MAX):
                known = f"a number as in the lines before it ({self._sample[field.name]!r})"
                raise UserError(f"{self.where(first_row + row)}: {field.name} {value!r}; wanted {known}")
        if whole and float in map(type, values):
            return pa.array([None if value is None else repr(value) for value in values])
        return pa.array(values, field.type)

    def where(self, row: int) -> str:
        return f"{self.path}:{line_of_row(self.path, row, BLANK)}"


def _lines(lines: list[bytes]) -> Iterator[bytes]:
    return (line for line in lines if line.strip(BLANK))


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf  # as Arrow reads it
