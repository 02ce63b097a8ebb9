"""The small tables that a user hands over: items, users, histories. CSV, TSV, Parquet, or lines of JSON."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from laser.errors import UserError
from laser.ingest.streams import BROKEN_GZIP, broken_gzip, open_text
from laser.ingest.tables import DelimitedFile, ParquetFile, TableFile
from laser.ingest.times import Clock, OtherForm, UnreadableTime
from laser.sources.base import readable
from laser.sources.columns import first_of

USER = ("user", "user_id", "userId", "raw_id")
ITEM = ("item", "item_id", "itemId", "raw_id", "id")
TIME = ("timestamp", "time")
ITEMS = "items"
"""Column of whole histories: lists of raw ids, the oldest first."""
JSON_LINES = (".jsonl", ".ndjson", ".json")

Histories = dict[str, tuple[str, ...]]
"""User → raw ids of the items, the oldest first."""


def open_table(path: Path, setting: str) -> TableFile:
    """Open a table by its name's suffix.

    Raises:
        UserError: there is no such file; names the setting.
    """
    check_readable(path, setting)
    return ParquetFile(path) if path.suffix == ".parquet" else DelimitedFile(path, None, typed_header=False)


def check_readable(path: Path, setting: str) -> None:
    """Refuse what is no readable file; name the setting."""
    try:
        readable(path)
    except UserError as error:
        raise UserError(f"{setting}: {error}") from error


def read_ids(path: Path, setting: str, columns: tuple[str, ...]) -> list[str]:
    """Read one column of ids; of a text file without a header of these names, every line is an id.

    Raises:
        UserError: there is no such file, or it holds no id.
    """
    check_readable(path, setting)
    ids = [] if path.suffix == ".parquet" else _lines(path, setting)
    if path.suffix == ".parquet" or any(name in line for line in ids[:1] for name in columns):
        file = open_table(path, setting)
        if path.suffix == ".parquet" or {*file.column_names} & {*columns}:
            name = file.require(first_of(file.column_names, *columns), setting)
            ids = file.ids(name, file.read([name]).column(name)).to_pylist()
    ids = list(dict.fromkeys(identity for identity in ids if identity))
    if not ids:
        raise UserError(f"{setting}: {path} holds no id; write one a line, or a column {columns[0]!r}")
    return ids


def _lines(path: Path, setting: str) -> list[str]:
    """Return the lines of a text file, gzipped or plain, without blanks around them."""
    try:
        with open_text(path) as file:
            return [line.strip() for line in file.read().decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{setting}: {path}: not UTF-8 text; save it as UTF-8") from error
    except BROKEN_GZIP as error:
        raise broken_gzip(path, error) from error


def read_histories(path: Path) -> Histories:
    """Read histories: a row for each user with a list of items, or a row for each interaction.

    Lines of JSON and Parquet files may have whole histories (`user`, `items`). CSV, TSV and other Parquet files have a
    row for each interaction (`user`, `item`, and `timestamp` where the rows are not in the order of time).

    Raises:
        UserError: the file is malformed, or has two rows of whole history for one user; names the line.
    """
    if path.suffix in JSON_LINES:
        return _whole(path, _json_rows(path))
    file = open_table(path, "histories")
    if path.suffix == ".parquet" and ITEMS in file.column_names:
        table = pq.read_table(path)
        user = first_of(table.column_names, *USER)
        return _whole(path, iter(table.select([file.require(user, "user"), ITEMS]).to_pylist()))
    return _by_interaction(file)


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    check_readable(path, "histories")
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"histories: {path}:{number}: not JSON ({error}); one object a line") from error
            yield row if isinstance(row, dict) else {"": row}


def _whole(path: Path, rows: Iterator[dict[str, Any]]) -> Histories:
    histories: Histories = {}
    for number, row in enumerate(rows, 1):
        user = next((row[name] for name in USER if row.get(name) is not None), None)
        items = row.get(ITEMS)
        plain = isinstance(items, list) and all(isinstance(item, str | int) for item in items)
        if not isinstance(user, str | int) or not plain:
            raise UserError(
                f'histories: {path}:{number}: wanted {{"user": "…", "items": ["…", …]}}, with ids as text or integers'
            )
        assert isinstance(items, list)
        if str(user) in histories:
            raise UserError(f"histories: {path}:{number}: user {str(user)!r} has a history already; keep one")
        histories[str(user)] = tuple(map(str, items))
    if not histories:
        raise UserError(f"histories: {path}: no history; write one a line")
    return histories


def _by_interaction(file: TableFile) -> Histories:
    user, item = (file.require(first_of(file.column_names, *names), names[0]) for names in (USER, ITEM))
    time = next((name for name in TIME if name in file.column_names), None)
    table = file.read([user, item])
    columns = {"user": file.ids(user, table.column(user)), "item": file.ids(item, table.column(item))}
    if time is not None:
        columns["time"] = pa.array(_times(file, time))
    table = pa.table(columns)
    for name in ("user", "item"):
        row = pc.index(pc.equal(table.column(name), ""), pa.scalar(True)).as_py()
        if row >= 0:
            raise UserError(f"histories: {file.where(row)}: no {name}; fill it, or remove the row")
    if time is not None:
        table = table.append_column("row", pa.array(range(len(table))))
        table = table.sort_by([("time", "ascending"), ("row", "ascending")])
    histories: dict[str, list[str]] = {name: [] for name in columns["user"].to_pylist()}
    for name, chosen in zip(table.column("user").to_pylist(), table.column("item").to_pylist(), strict=True):
        histories[name].append(chosen)
    return {name: tuple(items) for name, items in histories.items()}


def _times(file: TableFile, name: str) -> list[int]:
    clock, row = Clock(), 0
    while True:
        try:
            times: list[int] = []
            for batch in file.batches({name: "time"}):
                row = len(times)
                times += clock.read(batch.column(name)).tolist()
            return times
        except OtherForm as found:
            clock = found.clock
        except UnreadableTime as error:
            where = file.where(row + error.row)
            raise UserError(f"histories: {where}: {name} {error.value!r}; wanted numbers or ISO 8601 text") from error
