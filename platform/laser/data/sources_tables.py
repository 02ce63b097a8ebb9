"""Tabular sources: RecBole's atomic files, and pairs of CSV or Parquet files.

RecBole: `<name>.inter` and `<name>.item`, tab-separated, with typed headers such as `user_id:token`. Pairs:
`interactions` (user, item, timestamp, and rating where one filters by it) and `items` (item, title, any attributes).
"""

import csv as text_csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import csv

from laser.config.errors import UserError
from laser.config.schema import DataConfig
from laser.data.sources import RawData, chosen_attributes


@dataclass(frozen=True)
class _File:
    """A table read as it stands, and how to name a row of it."""

    path: Path
    table: pa.Table
    first_line: int
    """Line of row 0: 2 under a header, 1 in Parquet, where a row has no line."""

    def where(self, row: int) -> str:
        return f"{self.path}:{row + self.first_line}"

    def column(self, name: str, key: str) -> pa.ChunkedArray:
        if name not in self.table.column_names:
            has = ", ".join(self.table.column_names)
            raise UserError(f"{self.path}:1: no column {name!r} (it has: {has}); add it, or set data.{key}")
        return self.table.column(name)


def read_recbole(directory: Path, config: DataConfig) -> RawData:
    """Read the `.inter` and `.item` files of a folder."""
    interactions = _read_delimited(_only(directory, "*.inter"), "\t", typed_header=True)
    items = _read_delimited(_only(directory, "*.item"), "\t", typed_header=True)
    user_column, item_column = config.user_column or "user_id", config.item_column or "item_id"
    return _assemble(directory, config, interactions, items, user_column, item_column)


def read_pairs(directory: Path, config: DataConfig) -> RawData:
    """Read `interactions.{csv,parquet}` and `items.{csv,parquet}`."""
    files: list[_File] = []
    for name in ("interactions", "items"):
        path = _only(directory, f"{name}.csv", f"{name}.parquet")
        files.append(_read_delimited(path, ",", typed_header=False) if path.suffix == ".csv" else _read_parquet(path))
    interactions, items = files
    return _assemble(directory, config, interactions, items, config.user_column or "user", config.item_column or "item")


def _only(directory: Path, *patterns: str) -> Path:
    found = sorted(path for pattern in patterns for path in directory.glob(pattern))
    if len(found) != 1:
        wanted = " or ".join(patterns)
        raise UserError(f"{directory}: holds {len(found)} files {wanted}, wanted one; add it, or remove the others")
    return found[0]


def _read_delimited(path: Path, delimiter: str, typed_header: bool) -> _File:
    """All columns as text, so that nothing is guessed; empty text stays empty."""
    if not path.stat().st_size:
        raise UserError(f"{path}:1: empty file; wanted a header and rows")
    try:
        with path.open("rb") as file:
            header = file.readline().decode("utf-8-sig").rstrip("\r\n")
        names = next(text_csv.reader([header], delimiter=delimiter))
        types = dict.fromkeys(names, pa.string())
        table = csv.read_csv(
            path,
            read_options=csv.ReadOptions(use_threads=False),  # else errors do not name the row
            parse_options=_format(delimiter),
            convert_options=csv.ConvertOptions(column_types=types, strings_can_be_null=False),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    if not table.num_rows:
        raise UserError(f"{path}:1: a header and no rows; wanted rows")
    if typed_header:
        table = table.rename_columns([name.partition(":")[0] for name in table.column_names])
    return _File(path, table, first_line=2)


def _format(delimiter: str) -> csv.ParseOptions:
    return csv.ParseOptions(delimiter=delimiter, quote_char=False if delimiter == "\t" else '"')


def _unreadable(path: Path, error: Exception) -> UserError:
    line = 1
    with path.open("rb") as file:
        for line, content in enumerate(file, start=1):
            try:
                content.decode("utf-8")
            except UnicodeDecodeError as bad:
                return UserError(f"{path}:{line}: byte {content[bad.start]:#04x} is not UTF-8; save the file as UTF-8")
    message = str(error).splitlines()[0]
    row = re.search(r"Row #(\d+): ", message)
    text = message.replace(row[0], "") if row else message
    return UserError(f"{path}:{row[1] if row else 1}: {text}; mend the row")


def _read_parquet(path: Path) -> _File:
    try:
        table = pq.read_table(path, memory_map=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}:1: not a whole Parquet file ({str(error).splitlines()[0]}); write it again") from error
    if not table.num_rows:
        raise UserError(f"{path}:1: no rows; wanted rows")
    return _File(path, table, first_line=1)


def _assemble(
    directory: Path, config: DataConfig, interactions: _File, items: _File, user_column: str, item_column: str
) -> RawData:
    item_table = _item_table(config, items, item_column)
    users = _as_text(interactions.column(user_column, "user_column"))
    chosen = _as_text(interactions.column(item_column, "item_column"))
    _refuse(interactions, pc.equal(users, ""), lambda row: f"no user in column {user_column!r}; fill or remove it")
    item_rows = pc.index_in(chosen, item_table.column("raw_id").combine_chunks())
    _refuse(
        interactions,
        pc.is_null(item_rows),
        lambda row: f"item {chosen[row].as_py()!r} is not in {items.path.name}; add it there, or remove the row",
    )
    timestamps = _timestamps(interactions, config.timestamp_column)
    keep, rejected = _well_rated(interactions, config)
    encoded = users.combine_chunks().dictionary_encode()
    return RawData(
        name=directory.name,
        items=item_table,
        users=encoded.dictionary,
        user_rows=encoded.indices.to_numpy().astype(np.int64)[keep],
        item_rows=item_rows.to_numpy().astype(np.int64)[keep],
        timestamps=timestamps[keep],
        rejected=rejected,
    )


def _item_table(config: DataConfig, items: _File, item_column: str) -> pa.Table:
    raw_ids = _as_text(items.column(item_column, "item_column"))
    _refuse(items, pc.equal(raw_ids, ""), lambda row: f"no id in column {item_column!r}; fill it, or remove the row")
    if pc.count_distinct(raw_ids).as_py() < len(raw_ids):
        seen: set[str] = set()
        for row, raw in enumerate(raw_ids.to_pylist()):
            if raw in seen:
                raise UserError(f"{items.where(row)}: duplicate item {raw!r}; keep one row of it")
            seen.add(raw)
    title = config.title_column or next((name for name in items.table.column_names if name.endswith("title")), "title")
    columns = {"raw_id": raw_ids, "title": pc.utf8_trim_whitespace(_as_text(items.column(title, "title_column")))}
    known = [name for name in items.table.column_names if name not in (item_column, title)]
    for name in chosen_attributes(config, known, items.path):
        columns[name] = pc.utf8_trim_whitespace(_as_text(items.table.column(name)))
    return pa.table(columns)


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = pc.binary_join(column.cast(pa.list_(pa.string())), ", ")
    return pc.fill_null(column.cast(pa.string()), "")


def _refuse(file: _File, bad: pa.ChunkedArray, explain: Callable[[int], str]) -> None:
    """Name the first bad row, if there is one."""
    row = pc.index(bad, pa.scalar(True)).as_py()
    if row >= 0:
        raise UserError(f"{file.where(row)}: {explain(row)}")


def _timestamps(file: _File, name: str) -> NDArray[np.int64]:
    """Integers as they are; fractions of seconds and ISO 8601 text as microseconds. Only their order is used."""
    column = file.column(name, "timestamp_column")
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us")).cast(pa.int64())
    elif not pa.types.is_integer(column.type):
        column = _parsed(file, name, _as_text(column))
    _refuse(file, pc.is_null(column), lambda row: f"no {name}; fill it, or remove the row")
    return column.cast(pa.int64()).to_numpy()


def _parsed(file: _File, name: str, text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Parse times, all in the form of the first that can be read; a mixture is a mistake."""
    form = next((form for form in _TIME_FORMS if _cast(text.slice(0, 1), form) is not None), None)
    if form is _integers and _cast(text, form) is None:
        form = _fractions  # whole and fractional seconds may be mixed
    parsed = None if form is None else _cast(text, form)
    if parsed is None:
        row = 0 if form is None else next(row for row in range(len(text)) if _cast(text.slice(row, 1), form) is None)
        raise UserError(
            f"{file.where(row)}: {name} {text[row].as_py()!r}; wanted seconds or ISO 8601 text, in one form in all rows"
        )
    return parsed


def _cast(text: pa.ChunkedArray, form: Callable[[pa.ChunkedArray], pa.ChunkedArray]) -> pa.ChunkedArray | None:
    try:
        return form(text)
    except pa.ArrowInvalid:
        return None


def _integers(text: pa.ChunkedArray) -> pa.ChunkedArray:
    return text.cast(pa.int64())


def _fractions(text: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.round(pc.multiply(text.cast(pa.float64()), 1e6)).cast(pa.int64())


def _local_dates(text: pa.ChunkedArray) -> pa.ChunkedArray:
    return text.cast(pa.timestamp("us")).cast(pa.int64())


def _zoned_dates(text: pa.ChunkedArray) -> pa.ChunkedArray:
    return text.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())


_TIME_FORMS = (_integers, _fractions, _local_dates, _zoned_dates)


def _well_rated(file: _File, config: DataConfig) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Which interactions reach `data.min_rating`, and how many do not."""
    if config.min_rating is None:
        return np.ones(file.table.num_rows, dtype=bool), {}
    text = _as_text(file.column(config.rating_column, "rating_column"))
    try:
        ratings = text.cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        row = next(row for row in range(len(text)) if _cast(text.slice(row, 1), _fractions) is None)
        raise UserError(
            f"{file.where(row)}: {config.rating_column} {text[row].as_py()!r} is no number; mend it, or "
            "drop data.min_rating"
        ) from None
    keep = ratings >= config.min_rating
    return keep, {"interactions_below_min_rating": int((~keep).sum())}
