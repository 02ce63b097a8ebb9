"""RecFormer's JSON folders: the item lists of users, split already, and a dictionary of item attributes.

train.json            user → [item, ...] in time order      val.json, test.json   user → [item]
meta_data.json        raw item id → {title, brand, ...}
smap.json, umap.json  raw item id → item, raw user id → user
"""

import codecs
import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from laser.config.schema import DataConfig
from laser.errors import UserError
from laser.ingest.interactions import Workspace
from laser.ingest.texts import MISSING, value_text
from laser.sources.base import RawData, chosen_attributes, readable
from laser.sources.columns import title_column, without_index

FILES = "train.json and meta_data.json"
SPLITS = ("train", "val", "test")
MAX_NUMBER = 1 << 63
PATTERNS = tuple(f"{name}.json" for name in (*SPLITS, "meta_data", "smap", "umap"))


def recognises(names: set[str]) -> bool:
    """Whether a folder with files of these names has this layout. One file is enough; `read` asks for the others."""
    return "meta_data.json" in names or "train.json" in names


def read(directory: Path, config: DataConfig, workspace: Workspace) -> RawData:
    """Read a RecFormer folder and keep its split."""
    if config.min_rating is not None:
        raise UserError(f"data.min_rating: {config.min_rating}; RecFormer's files hold no ratings: set it to null")
    texts = {name: _read(directory / f"{name}.json") for name in (*SPLITS, "meta_data", "smap", "umap")}
    files = {name: _parse(directory / f"{name}.json", text) for name, text in texts.items()}
    items, row_of_item = _items(directory, files["meta_data"], files["smap"], config)
    raw_users = _raw_users(directory / "umap.json", files["umap"])
    users: dict[str, int] = {}
    user_rows: list[int] = []
    item_rows: list[int] = []
    split: list[int] = []
    num_unknown = 0
    for number, name in enumerate(SPLITS):
        path = directory / f"{name}.json"
        for user, sequence in files[name].items():
            if user not in raw_users:
                raise _bad(path, texts[name], user, "is not in umap.json; add it there, or remove it here")
            if not isinstance(sequence, list):
                raise _bad(path, texts[name], user, f"has {sequence!r}; wanted a list of item numbers")
            row = users.setdefault(user, len(users))
            for item in sequence:
                if type(item) is not int or abs(item) >= MAX_NUMBER:
                    raise _bad(path, texts[name], user, f"has item {item!r}; wanted its number in smap.json")
                if item not in row_of_item:
                    num_unknown += 1
                    continue
                user_rows.append(row)
                item_rows.append(row_of_item[item])
                split.append(number)
    if not user_rows:
        what = "no interaction with an item of smap.json; give it users with items"
        raise UserError(f"{directory / 'train.json'}:1: holds {what}")
    interactions = workspace.interactions()
    columns = [pa.array(user_rows, pa.int32()), pa.array(item_rows, pa.int32()), pa.array(split, pa.int8())]
    interactions.append(pa.record_batch(columns, names=["user", "item", "split"]))
    rejected = {"interactions_with_unknown_item": num_unknown}
    return RawData(
        directory.name, items, pa.array([raw_users[user] for user in users]), interactions, rejected=rejected
    )


def _raw_users(path: Path, umap: dict[str, Any]) -> dict[str, str]:
    """Return the raw id of each user number. Numbers are text here, because the keys of train.json are."""
    raw_users: dict[str, str] = {}
    for raw, user in umap.items():
        if type(user) is not int:
            raise UserError(f"{path}: {raw!r} has number {user!r}; wanted an integer")
        if str(user) in raw_users:
            raise UserError(f"{path}: duplicate user number {user} at {raw!r}; give each user its own")
        raw_users[str(user)] = raw
    return raw_users


def _items(
    directory: Path, meta_data: dict[str, Any], smap: dict[str, Any], config: DataConfig
) -> tuple[pa.Table, dict[int, int]]:
    """Return the table of items, and the row of each item number."""
    path = directory / "smap.json"
    where = directory / "meta_data.json"
    names = list(dict.fromkeys(key for fields in meta_data.values() if isinstance(fields, dict) for key in fields))
    title = config.title_column or title_column(names, "item", where)
    attributes = chosen_attributes(config, [name for name in without_index(names) if name != title], where)
    columns: dict[str, list[str]] = {"raw_id": [], "title": [], **{name: [] for name in attributes}}
    row_of_item: dict[int, int] = {}
    for raw, item in smap.items():
        if type(item) is not int:
            raise UserError(f"{path}: {raw!r} has number {item!r}; wanted an integer")
        if item in row_of_item:
            raise UserError(f"{path}: duplicate item number {item} at {raw!r}; give each item its own")
        row_of_item[item] = len(columns["raw_id"])
        fields = meta_data.get(raw, {})
        if not isinstance(fields, dict):
            raise UserError(f"{directory / 'meta_data.json'}: {raw!r} has {fields!r}; wanted title and attributes")
        columns["raw_id"].append(raw)
        columns["title"].append(_text(fields.get(title)))
        for name in attributes:
            columns[name].append(_text(fields.get(name)))
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), row_of_item


def _text(value: Any) -> str:
    text = value_text(value).strip()
    return "" if text in MISSING else text


def _read(path: Path) -> str:
    if path.exists():
        readable(path)
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; a RecFormer folder needs this file") from error
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: byte {content[error.start]:#04x} is not UTF-8; save it as UTF-8") from error


def _parse(path: Path, text: str) -> dict[str, Any]:
    if not text.strip():
        raise UserError(f"{path}:1: empty file; wanted a JSON object")

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise UserError(f"{path}:{_line_of(text, twice)}: duplicate key {twice!r}; keep one of them")
        return content

    try:
        content = json.loads(text, object_pairs_hook=refuse_duplicates)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg}); fix it, or fetch it again") from error
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply; wanted an object of lists or texts") from error
    except UserError:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise UserError(f"{path}: {str(error).partition(';')[0]}; fix it") from error
    try:
        if "\\u" in text:
            json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        around = error.object[max(0, error.start - 20) : error.start + 20]
        raise UserError(f"{path}: {around!r} holds half a character (a lone surrogate); fix it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}:1: holds a {type(content).__name__}; wanted a JSON object")
    return content


def _bad(path: Path, text: str, user: str, what: str) -> UserError:
    return UserError(f"{path}:{_line_of(text, user)}: user {user!r} {what}")


def _line_of(text: str, key: str) -> int:
    """Return the line of a top-level key, for messages."""
    return text.count("\n", 0, max(0, text.find(json.dumps(key)))) + 1
