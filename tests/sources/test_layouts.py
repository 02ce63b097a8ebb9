"""The contract of a raw layout. A new layout is tested by being listed; it needs its folder in FOLDERS and BROKEN."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from laser import sources
from laser.config.schema import DataConfig
from laser.data.dataset import Dataset
from laser.errors import UserError
from laser.ingest.interactions import Workspace
from laser.sources import registry
from laser.sources.prepare import prepare_dataset
from laser.sources.registry import LAYOUTS, detect_format, layout_module

# User, item, time. The rows of u1 are not in time order; u3 has too few interactions to be held out.
ROWS = [("u1", "d", 40), ("u1", "b", 10), ("u1", "c", 20), ("u1", "a", 30)]
ROWS += [("u2", "b", 5), ("u2", "a", 6), ("u2", "d", 7), ("u3", "c", 1)]
ITEMS = [("a", "Apple", "Acme"), ("b", "Bread", ""), ("c", "Cake", "Best"), ("d", "Date", "Acme")]


def lines(header: str, rows: list, separator: str) -> str:
    return "".join(line + "\n" for line in (header, *(separator.join(map(str, row)) for row in rows)))


def pairs(folder: Path) -> None:
    (folder / "interactions.csv").write_text(lines("user,item,timestamp", ROWS, ","))
    (folder / "items.csv").write_text(lines("item,title,brand", ITEMS, ","))


def recbole(folder: Path) -> None:
    header = "user_id:token\titem_id:token\ttimestamp:float"
    (folder / "shop.inter").write_text(lines(header, ROWS, "\t"))
    (folder / "shop.item").write_text(lines("item_id:token\ttitle:token_seq\tbrand:token", ITEMS, "\t"))


def recformer(folder: Path) -> None:
    files = {
        "train": {"0": [1, 2], "1": [1], "2": [2]},
        "val": {"0": [0], "1": [0]},
        "test": {"0": [3], "1": [3]},
        "meta_data": {item: {"title": title, "brand": brand} for item, title, brand in ITEMS},
        "smap": {item: number for number, (item, _, _) in enumerate(ITEMS)},
        "umap": {"u1": 0, "u2": 1, "u3": 2},
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1))


def amazon(folder: Path) -> None:
    reviews = [{"reviewerID": user, "asin": item, "unixReviewTime": time} for user, item, time in ROWS]
    metadata = [{"asin": item, "title": title, "brand": brand} for item, title, brand in ITEMS]
    for name, rows in (("Shop.json", reviews), ("meta_Shop.json", metadata)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def movielens(folder: Path) -> None:
    (folder / "ratings.csv").write_text(lines("userId,movieId,timestamp", ROWS, ","))
    (folder / "movies.csv").write_text(lines("movieId,title,brand", ITEMS, ","))


FOLDERS: dict[str, Callable[[Path], None]] = {
    "pairs": pairs,
    "recbole": recbole,
    "recformer": recformer,
    "amazon": amazon,
    "movielens": movielens,
}
"""Writes ROWS and ITEMS to a folder of the layout."""
BROKEN: dict[str, tuple[str, int, str, str]] = {
    "pairs": ("interactions.csv", 4, "20", "soon"),
    "recbole": ("shop.inter", 4, "20", "soon"),
    "recformer": ("train.json", 6, '"1"', '"99"'),
    "amazon": ("Shop.json", 3, "20", '"soon"'),
    "movielens": ("ratings.csv", 4, "20", "soon"),
}
"""File and line of each layout's folder, a text in this line, and the text that breaks it in its place."""


def folder_of(layout: str, parent: Path) -> Path:
    assert layout in FOLDERS and layout in BROKEN, (
        f"the layout {layout!r} has no test data: add a function to FOLDERS and a broken line to BROKEN in {__file__}"
    )
    folder = parent / layout
    folder.mkdir()
    FOLDERS[layout](folder)
    return folder


def prepared(folder: Path) -> Dataset:
    return prepare_dataset(DataConfig(path=str(folder)), folder.parent / "cache")


def tables(dataset: Dataset) -> dict[str, list[dict]]:
    return {name: pq.read_table(dataset.path / f"{name}.parquet").to_pylist() for name in ("items", "splits")}


def check_recognised_by_it_alone(layout: str, tmp_path: Path) -> None:
    folder = folder_of(layout, tmp_path)
    names = {path.name for path in folder.iterdir()}
    assert [name for name in registry.LAYOUTS if layout_module(name).recognises(names)] == [layout]
    assert detect_format(folder, DataConfig(path=str(folder))) == layout


def check_reads_what_pairs_read(layout: str, tmp_path: Path) -> None:
    """All columns are equal, but for timestamps where the layout has none; then the fingerprint is another one."""
    found, expected = prepared(folder_of(layout, tmp_path)), prepared(_pairs_of(tmp_path))
    assert tables(found) == tables(expected)
    columns = [pq.read_table(dataset.path / "sequences.parquet").to_pydict() for dataset in (found, expected)]
    timeless = columns[0]["timestamps"] == [None] * found.num_users
    if timeless:
        columns[1]["timestamps"] = [None] * found.num_users
    assert columns[0] == columns[1]
    assert (found.fingerprint == expected.fingerprint) == (not timeless)


def _pairs_of(tmp_path: Path) -> Path:
    folder = tmp_path / "the same as pairs"
    folder.mkdir()
    pairs(folder)
    return folder


def check_names_file_and_line_of_a_broken_row(layout: str, tmp_path: Path) -> None:
    folder = folder_of(layout, tmp_path)
    name, number, old, new = BROKEN[layout]
    text = (folder / name).read_text().splitlines(keepends=True)
    assert old in text[number - 1]
    text[number - 1] = text[number - 1].replace(old, new)
    (folder / name).write_text("".join(text))
    with pytest.raises(UserError, match=re.escape(f"{folder / name}:{number}: ")):
        prepared(folder)


def check_refuses_an_empty_folder(layout: str, tmp_path: Path) -> None:
    folder = tmp_path / layout
    folder.mkdir()
    with pytest.raises(UserError, match=re.escape(str(folder))):
        layout_module(layout).read(folder, DataConfig(path=str(folder)), Workspace.within(1, tmp_path))


CONTRACT = [
    check_recognised_by_it_alone,
    check_reads_what_pairs_read,
    check_names_file_and_line_of_a_broken_row,
    check_refuses_an_empty_folder,
]


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_keeps_the_contract(layout: str, check: Callable[[str, Path], None], tmp_path: Path):
    check(layout, tmp_path)


def test_pairs_hold_the_dataset_that_the_rows_say(tmp_path: Path):
    dataset = prepared(folder_of("pairs", tmp_path))
    raw = dataset.items.column("raw_id").to_pylist()
    assert [[raw[item] for item in dataset.train_items(user)] for user in range(3)] == [["b", "c"], ["b"], ["c"]]
    assert sorted(raw[item] for item in dataset.examples("val").targets) == ["a", "a"]
    assert sorted(raw[item] for item in dataset.examples("test").targets) == ["d", "d"]


def test_a_folder_of_no_layout_is_told_what_each_layout_wants(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UserError) as caught:
        detect_format(tmp_path, DataConfig(path="raw"))
    assert str(caught.value) == (
        "data.path: raw holds no train.json and meta_data.json (recformer), no .inter file (recbole), no "
        "interactions.csv or .parquet (pairs), no meta_*.json.gz (amazon) and no ratings.csv and movies.csv (or .dat, "
        "or u.data and u.item) (movielens); name another folder"
    )


EVENTS = """
from laser.ingest.tables import DelimitedFile
from laser.sources.tabular import matching_file, read_tables

FILES = "events.txt"
PATTERNS = ("events.txt", "products.txt")


def recognises(names):
    return "events.txt" in names


def read(directory, config, workspace):
    files = (matching_file(directory, name) for name in ("events.txt", "products.txt"))
    events, products = (DelimitedFile(file, "|", typed_header=False) for file in files)
    return read_tables(directory, config, workspace, events, products, "who", "what")
"""


def events(folder: Path) -> None:
    (folder / "events.txt").write_text(lines("who|what|timestamp", ROWS, "|"))
    (folder / "products.txt").write_text(lines("what|title|brand", ITEMS, "|"))


@pytest.fixture
def new_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A layout added as its module and its name."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "events.py").write_text(EVENTS)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(code)])
    monkeypatch.setattr(registry, "LAYOUTS", (*LAYOUTS, "events"))
    monkeypatch.setitem(FOLDERS, "events", events)
    monkeypatch.setitem(BROKEN, "events", ("events.txt", 4, "20", "soon"))
    yield "events"
    sys.modules.pop("laser.sources.events", None)
    if hasattr(sources, "events"):
        del sources.events


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__.removeprefix("check_"))
def test_a_new_layout_is_one_module_and_its_name(new_layout: str, check: Callable[[str, Path], None], tmp_path: Path):
    check(new_layout, tmp_path)


def test_a_new_layout_without_test_data_is_told_so(tmp_path: Path):
    with pytest.raises(AssertionError, match="the layout 'unheard of' has no test data: add a function to FOLDERS"):
        folder_of("unheard of", tmp_path)
