"""Table files of interactions and items, read into `RawData`: what the readers of tabular layouts share."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from laser.config.schema import DataConfig
from laser.errors import UserError
from laser.ingest.interactions import Workspace
from laser.ingest.numbering import Collector
from laser.ingest.tables import Kind, TableFile
from laser.ingest.times import Clock, OtherForm, UnreadableTime
from laser.sources.base import RawData, chosen_attributes, only_one, readable
from laser.sources.columns import first_of, is_counter, title_column, without_index

T = TypeVar("T")
NO_ID = "a word that stands for nothing, as nan; fill it, or remove the row"


def matching_file(directory: Path, *patterns: str) -> Path:
    """Return the one file of a folder whose name matches one of the patterns.

    Raises:
        UserError: there is none, or more than one, or it is no readable file.
    """
    found = [path for pattern in patterns for path in directory.glob(pattern)]
    return readable(only_one(directory, found, " or ".join(patterns)))


def read_tables(
    directory: Path,
    config: DataConfig,
    workspace: Workspace,
    interactions: TableFile | Sequence[TableFile],
    items: TableFile,
    user_column: str,
    item_column: str,
) -> RawData:
    """Read a layout that has tables of interactions and a table of items.

    Args:
        directory: names the dataset.
        config: may name the columns.
        workspace: of the preparation.
        interactions: the file of interactions, or those for training, validation and test.
        items: the file of items.
        user_column: holds the user, unless `config` names another column.
        item_column: holds the item in both files, unless `config` names another column.

    Raises:
        UserError: a file is malformed; the message names file and line, the value and the remedy.
    """
    user_column, item_column = config.user_column or user_column, config.item_column or item_column
    item_id = config.items_id_column or first_of(items.column_names, item_column, "item_id", "item", "id")
    table, num_duplicates = read_items(items, config, item_id, "refuse")
    columns = Columns(user_column, item_column, config.timestamp_column, config.rating_column)
    files = [interactions] if isinstance(interactions, TableFile) else interactions
    collector, rejected = read_interactions(files, columns, table, config, workspace)
    rejected["duplicate_items"] = num_duplicates
    return RawData(directory.name, table, collector.users(), collector.interactions, rejected=rejected)


def read_items(
    file: TableFile, config: DataConfig, item_column: str, duplicates: str, known: list[str] | None = None
) -> tuple[pa.Table, int]:
    """Read the table of items: raw_id, title, attributes. Rows that repeat word for word are one.

    Args:
        file: the file of items.
        config: may choose title and attributes.
        item_column: the column of the raw id.
        duplicates: of rows with one id and different text, keep the "first", or "refuse" them.
        known: attributes to choose from; None takes all other columns that are no index.

    Returns:
        the table, and the number of duplicates that were dropped.
    """
    title = config.title_column or title_column(file.column_names, item_column, file.path)
    others = [name for name in file.column_names if name not in (item_column, title)]
    if known is None:
        known = others if config.attributes else without_index(others)
    file.require(item_column, "items_id_column")
    file.require(title, "title_column")
    attributes = [file.require(name, "attributes") for name in chosen_attributes(config, known, file.path)]
    table = file.read(list(dict.fromkeys([item_column, title, *attributes])))
    raw_ids = file.ids(item_column, table.column(item_column))
    _refuse(file, 0, pc.equal(raw_ids, ""), f"no id in column {item_column!r}, or {NO_ID}")
    columns = {"raw_id": raw_ids}
    for name, column in {"title": title, **{name: name for name in attributes}}.items():
        texts = file.text(column, table.column(column))
        if name == "title" or config.attributes or not is_counter(name, texts):
            columns[name] = texts
    items = pa.table(columns)
    codes = raw_ids.combine_chunks().dictionary_encode().indices.to_numpy()
    firsts = np.unique(codes, return_index=True)[1]
    repeats = np.setdiff1d(np.arange(len(codes)), firsts)
    if not len(repeats):
        return items, 0
    if duplicates == "refuse":
        again, first = (items.take(pa.array(rows)) for rows in (repeats, firsts[codes[repeats]]))
        for name in columns:
            differ = pc.index(pc.not_equal(again[name], first[name]), pa.scalar(True)).as_py()
            if differ >= 0:
                row = int(repeats[differ])
                what = f"duplicate item {raw_ids[row].as_py()!r}, with another {name}; keep one row of it"
                raise UserError(f"{file.where(row)}: {what}")
    return items.take(pa.array(np.sort(firsts))), len(repeats)


@dataclass(frozen=True)
class Columns:
    """Names of the columns of an interaction."""

    user: str
    item: str
    time: str
    rating: str


def read_interactions(
    files: Sequence[TableFile], columns: Columns, items: pa.Table, config: DataConfig, workspace: Workspace
) -> tuple[Collector, dict[str, int]]:
    """Stream files of interactions into a collector. Interactions with unknown items are left out.

    Args:
        files: one, or those for training, validation and test.
        columns: the names of their columns.
        items: the items that interactions may name.
        config: gives the lowest rating to keep.
        workspace: of the preparation.

    Returns:
        the collector, and how many interactions were left out, by reason.
    """
    kinds: dict[str, Kind] = {columns.user: "text", columns.item: "text", columns.time: "time"}
    if config.min_rating is not None:
        kinds[columns.rating] = "number"
    for file in files:
        for name, key in zip(kinds, ("user_column", "item_column", "timestamp_column", "rating_column"), strict=False):
            file.require(name, key)

    def stream(clock: Clock) -> tuple[Collector, int]:
        low = 0
        with ThreadPoolExecutor(1) as thread:
            collector = Collector(workspace, thread, items.column("raw_id").combine_chunks())
            for number, file in enumerate(files):
                row = 0
                for batch in file.batches(kinds):
                    users, chosen = (file.ids(name, batch.column(name)) for name in (columns.user, columns.item))
                    for name, texts in ((columns.user, users), (columns.item, chosen)):
                        _refuse(file, row, pc.equal(texts, ""), f"nothing in column {name!r}, or {NO_ID}")
                    keep = _well_rated(file, row, batch, columns.rating, config.min_rating)
                    times = _times(file, row, batch, columns.time, clock)
                    collector.add(users, chosen, times, keep, number if len(files) > 1 else None)
                    low += 0 if keep is None else len(keep) - int(keep.sum())
                    row += batch.num_rows
            collector.users()
        return collector, low

    collector, low = _in_one_form(stream)
    rejected = {} if config.min_rating is None else {"interactions_below_min_rating": low}
    return collector, rejected | {"interactions_with_unknown_item": collector.num_unknown}


def _in_one_form(stream: Callable[[Clock], T]) -> T:
    """Stream with a clock, and anew with another one where a time needs a finer form than those before it."""
    clock = Clock()
    while True:
        try:
            return stream(clock)
        except OtherForm as found:
            clock = found.clock


def _refuse(file: TableFile, first_row: int, bad: pa.ChunkedArray, what: str) -> None:
    """Raise a UserError that names the first bad row, if there is one."""
    row = pc.index(bad, pa.scalar(True)).as_py()
    if row >= 0:
        raise UserError(f"{file.where(first_row + row)}: {what}")


def _times(file: TableFile, first_row: int, batch: pa.Table, name: str, clock: Clock) -> NDArray[np.int64]:
    try:
        return clock.read(batch.column(name))
    except UnreadableTime as error:
        wanted = "numbers or ISO 8601 text, in one form in all rows, with no zone, UTC, Z or an offset such as +02:00"
        raise UserError(f"{file.where(first_row + error.row)}: {name} {error.value!r}; wanted {wanted}") from error


def _well_rated(
    file: TableFile, first_row: int, batch: pa.Table, name: str, min_rating: float | None
) -> NDArray[np.bool_] | None:
    """Return which interactions reach `data.min_rating`; None where it is not set."""
    if min_rating is None:
        return None
    column = batch.column(name)
    if pa.types.is_string(column.type):
        column = pc.utf8_trim_whitespace(column)
    try:
        ratings = column.cast(pa.float64())
    except pa.ArrowNotImplementedError as error:
        raise UserError(f"{file.path}:1: column {name!r} holds {column.type}; wanted numbers") from error
    except pa.ArrowInvalid:
        row = next(row for row in range(len(column)) if not _is_number(column[row].as_py()))
        what = f"{name} {column[row].as_py()!r} is no number; fix it, or drop data.min_rating"
        raise UserError(f"{file.where(first_row + row)}: {what}") from None
    _refuse(file, first_row, pc.is_null(ratings), f"no {name}; fill it, or drop data.min_rating")
    _refuse(file, first_row, pc.invert(pc.is_finite(ratings)), f"{name} is not finite; fix it, or drop data.min_rating")
    return ratings.to_numpy() >= min_rating


def _is_number(text: str) -> bool:
    try:
        pa.scalar(text).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True
