"""Table files of interactions and items, read into `RawData`: what the readers of tabular layouts share."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from laser.config.schema import DataConfig
from laser.data.ingest.interactions import Workspace
from laser.data.ingest.numbering import Collector
from laser.data.ingest.tables import Kind, TableFile
from laser.data.ingest.times import Clock, FractionOfSecond, UnreadableTime, fractions
from laser.data.sources.base import RawData, chosen_attributes, only_one
from laser.errors import UserError


def matching_file(directory: Path, *patterns: str) -> Path:
    """Return the one file of a folder whose name matches one of the patterns.

    Raises:
        UserError: there is none, or more than one, or it is no readable file.
    """
    found = [path for pattern in patterns for path in directory.glob(pattern)]
    return only_one(directory, found, " or ".join(patterns))


def read_tables(
    directory: Path,
    config: DataConfig,
    workspace: Workspace,
    interactions: TableFile,
    items: TableFile,
    user_column: str,
    item_column: str,
) -> RawData:
    """Read a layout that has one file of interactions and one of items, and refuses unknown items.

    Args:
        directory: names the dataset.
        config: may name the columns.
        workspace: of the preparation.
        interactions: the file of interactions.
        items: the file of items.
        user_column: holds the user, unless `config` names another column.
        item_column: holds the item in both files, unless `config` names another column.

    Raises:
        UserError: a file is malformed; the message names file and line, the value and the remedy.
    """
    user_column, item_column = config.user_column or user_column, config.item_column or item_column
    table, _ = read_items(items, config, item_column, title_column(items, config), "refuse")
    columns = Columns(user_column, item_column, config.timestamp_column, config.rating_column)

    def unknown_item(row: int, item: str) -> UserError:
        what = f"item {item!r} is not in {items.path.name}; add it there, or remove the row"
        return UserError(f"{interactions.where(row)}: {what}")

    collector, rejected = read_interactions(interactions, columns, table, config, workspace, unknown_item)
    return RawData(directory.name, table, collector.users(), collector.interactions, rejected=rejected)


def title_column(items: TableFile, config: DataConfig) -> str:
    """Return the column of titles: `data.title_column`, else the first whose name is or ends with `title`."""
    return config.title_column or next((name for name in items.column_names if name.endswith("title")), "title")


def read_items(
    file: TableFile, config: DataConfig, item_column: str, title: str, duplicates: str, known: list[str] | None = None
) -> tuple[pa.Table, int]:
    """Read the table of items: raw_id, title, attributes.

    Args:
        file: the file of items.
        config: may choose attributes.
        item_column: the column of the raw id.
        title: the column of the title.
        duplicates: "refuse" two rows of an item, or keep the "first".
        known: attributes to choose from; None takes all other columns.

    Returns:
        the table, and the number of duplicates that were dropped.
    """
    known = [name for name in file.column_names if name not in (item_column, title)] if known is None else known
    file.require(item_column, "item_column")
    file.require(title, "title_column")
    attributes = chosen_attributes(config, known, file.path)
    table = file.read(list(dict.fromkeys([item_column, title, *attributes])))
    raw_ids = file.text(item_column, table.column(item_column))
    _refuse(file, 0, pc.equal(raw_ids, ""), f"no id in column {item_column!r}; fill it, or remove the row")
    columns = {"raw_id": raw_ids}
    for name, column in {"title": title, **{name: name for name in attributes}}.items():
        columns[name] = pc.utf8_trim_whitespace(file.text(column, table.column(column)))
    codes = raw_ids.combine_chunks().dictionary_encode().indices.to_numpy()
    firsts = np.unique(codes, return_index=True)[1]
    num_duplicates = len(codes) - len(firsts)
    if num_duplicates and duplicates == "refuse":
        row = int(np.setdiff1d(np.arange(len(codes)), firsts)[0])
        raise UserError(f"{file.where(row)}: duplicate item {raw_ids[row].as_py()!r}; keep one row of it")
    items = pa.table(columns)
    return (items.take(pa.array(np.sort(firsts))) if num_duplicates else items), num_duplicates


@dataclass(frozen=True)
class Columns:
    """Names of the columns of an interaction."""

    user: str
    item: str
    time: str
    rating: str


def read_interactions(
    file: TableFile,
    columns: Columns,
    items: pa.Table,
    config: DataConfig,
    workspace: Workspace,
    unknown_item: Callable[[int, str], UserError] | None,
) -> tuple[Collector, dict[str, int]]:
    """Stream a file of interactions into a collector.

    Args:
        file: the file of interactions.
        columns: the names of its columns.
        items: the items that interactions may name.
        config: gives the lowest rating to keep.
        workspace: of the preparation.
        unknown_item: as in `Collector`.

    Returns:
        the collector, and how many interactions were left out, by reason.
    """
    kinds: dict[str, Kind] = {
        file.require(columns.user, "user_column"): "text",
        file.require(columns.item, "item_column"): "text",
        file.require(columns.time, "timestamp_column"): "time",
    }
    if config.min_rating is not None:
        kinds[file.require(columns.rating, "rating_column")] = "number"

    def stream(clock: Clock) -> tuple[Collector, dict[str, int]]:
        row = low = 0
        with ThreadPoolExecutor(1) as thread:
            collector = Collector(workspace, thread, items.column("raw_id").combine_chunks(), unknown_item)
            for batch in file.batches(kinds):
                users, chosen = (file.text(name, batch.column(name)) for name in (columns.user, columns.item))
                for name, texts in ((columns.user, users), (columns.item, chosen)):
                    _refuse(file, row, pc.equal(texts, ""), f"nothing in column {name!r}; fill it, or remove the row")
                keep = _well_rated(file, row, batch, columns.rating, config.min_rating)
                collector.add(users, chosen, _times(file, row, batch, columns.time, clock), keep)
                low += 0 if keep is None else len(keep) - int(keep.sum())
                row += batch.num_rows
            collector.users()
        return collector, {} if config.min_rating is None else {"interactions_below_min_rating": low}

    try:
        return stream(Clock())
    except FractionOfSecond:
        return stream(Clock(fractions))


def _refuse(file: TableFile, first_row: int, bad: pa.ChunkedArray, what: str) -> None:
    """Raise a UserError that names the first bad row, if there is one."""
    row = pc.index(bad, pa.scalar(True)).as_py()
    if row >= 0:
        raise UserError(f"{file.where(first_row + row)}: {what}")


def _times(file: TableFile, first_row: int, batch: pa.Table, name: str, clock: Clock) -> NDArray[np.int64]:
    try:
        return clock.read(batch.column(name))
    except UnreadableTime as error:
        wanted = "seconds or ISO 8601 text, in one form in all rows"
        raise UserError(f"{file.where(first_row + error.row)}: {name} {error.value!r}; wanted {wanted}") from error


def _well_rated(
    file: TableFile, first_row: int, batch: pa.Table, name: str, min_rating: float | None
) -> NDArray[np.bool_] | None:
    """Return which interactions reach `data.min_rating`; None where it is not set."""
    if min_rating is None:
        return None
    column = batch.column(name)
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
