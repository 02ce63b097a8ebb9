"""Dumps of Amazon reviews: both releases, their known defects, and fields that differ from line to line."""

import codecs
import gzip
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from laser.config.schema import DataConfig
from laser.ingest import streams
from laser.sources.prepare import prepare_dataset
from tiny.tables import INTERACTIONS, ITEMS

REVIEWERS = [line.split(",") for line in INTERACTIONS.splitlines()[1:]]
METADATA = [line.split(",") for line in ITEMS.splitlines()[1:]]


def histories(dataset) -> dict[str, list[str]]:
    """Raw items of each user, in order."""
    raw = dataset.items.column("raw_id").to_pylist()
    users = pq.read_table(dataset.path / "sequences.parquet").column(0).to_pylist()
    rows = zip(users, dataset.offsets[:-1], dataset.offsets[1:], strict=True)
    return {str(user): [raw[i] for i in dataset.item_ids[start:end]] for user, start, end in rows}


def write_amazon(folder: Path, reviews: list[dict], metadata: list[dict], suffix: str = ".json.gz") -> DataConfig:
    folder.mkdir()
    for name, rows in (("Toys", reviews), ("meta_Toys", metadata)):
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        (folder / f"{name}{suffix}").write_bytes(gzip.compress(text) if suffix.endswith(".gz") else text)
    return DataConfig(path=str(folder))


def test_defects_of_a_dump_are_counted_and_the_rest_is_the_dataset_that_pairs_are(tmp_path):
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    (pairs / "interactions.csv").write_text(INTERACTIONS)
    (pairs / "items.csv").write_text(ITEMS)
    reviews = [
        {"overall": float(rating), "reviewText": "…", "reviewerID": user, "asin": item, "unixReviewTime": int(time)}
        for user, item, time, rating in REVIEWERS
    ]
    metadata = [{"asin": item, "title": title, "brand": brand, "also_buy": [1]} for item, title, brand in METADATA]
    again = {"asin": "a", "title": "Another apple"}
    lost = {"overall": 5, "reviewerID": "u1", "asin": "lost", "unixReviewTime": 15}
    config = write_amazon(tmp_path / "amazon", [lost, *reviews, reviews[0]], [*metadata, again])
    expected = prepare_dataset(DataConfig(path=str(pairs), min_rating=2.0), tmp_path / "cache")
    dataset = prepare_dataset(config.model_copy(update={"min_rating": 2.0}), tmp_path / "cache")
    assert dataset.fingerprint == expected.fingerprint
    rejected = dataset.manifest["rejected"]
    assert (rejected["duplicate_items"], rejected["interactions_with_unknown_item"]) == (1, 1)
    assert rejected["repeated_interactions"] == 1


@pytest.mark.parametrize("block_bytes", [100, 1 << 20])
def test_an_amazon_dump_of_2023_in_plain_lines_with_uneven_fields(tmp_path, monkeypatch, block_bytes: int):
    monkeypatch.setattr(streams, "BLOCK_BYTES", block_bytes)
    reviews = [
        {"rating": 5.0, "asin": "other", "parent_asin": item, "user_id": user, "timestamp": int(time) * 1000}
        for user, item, time, _ in REVIEWERS
        if item != "untitled"
    ]
    metadata = [
        {"parent_asin": "a", "title": "Apple", "store": "Acme", "main_category": "Fruit", "categories": ["x", "y"]},
        {"parent_asin": "b", "title": " Bread ", "store": None, "categories": []},
        {"parent_asin": "c", "title": "Cake", "store": ["Best", "Co"], "categories": [["x"], ["z"]]},
        {"parent_asin": "d", "title": "Date", "store": 7, "categories": "x", "price": {"unit": "$"}},
    ]
    dataset = prepare_dataset(write_amazon(tmp_path / "raw", reviews, metadata, ".jsonl"), tmp_path / "cache")
    assert sorted(histories(dataset).values()) == [["b", "a", "d"], ["b", "c", "a", "d"], ["c"]]
    assert dataset.item_attributes == ("store", "main_category", "categories")
    rows = {row["raw_id"]: [row[n] for n in ("title", *dataset.item_attributes)] for row in dataset.items.to_pylist()}
    assert rows == {
        "a": ["Apple", "Acme", "Fruit", "x, y"],
        "b": ["Bread", "", "", ""],
        "c": ["Cake", "Best, Co", "", "x, z"],
        "d": ["Date", "7", "", "x"],
    }


def test_texts_of_the_page_are_cleaned_and_counted(tmp_path):
    reviews = [
        {"overall": 5.0, "reviewerID": user, "asin": item, "unixReviewTime": time}
        for user in "uv"
        for time, item in enumerate("abc")
    ]
    metadata = [
        {
            "asin": "a",
            "title": "Pen &amp;amp; Paper",
            "brand": "by\n    \n    Acme",
            "category": ["A &amp; B", "</span>"],
        },
        {"asin": "b", "title": "<b>Foo</b>", "brand": "Best"},
        {"asin": "c", "title": "var aPageStart = (new Date()).getTime();", "brand": "z"},
    ]
    dataset = prepare_dataset(write_amazon(tmp_path / "raw", reviews, metadata), tmp_path / "cache")
    rows = {row.pop("raw_id"): row for row in dataset.items.drop_columns("item_id").to_pylist()}
    assert rows == {
        "a": {"title": "Pen & Paper", "brand": "by Acme", "category": "A & B"},
        "b": {"title": "Foo", "brand": "Best", "category": ""},
    }
    rejected = dataset.manifest["rejected"]
    assert (rejected["texts_cleaned"], rejected["titles_of_page_source"], rejected["items_without_title"]) == (5, 1, 1)

    raw = prepare_dataset(DataConfig(path=str(tmp_path / "raw"), clean_texts=False), tmp_path / "cache")
    assert "<b>Foo</b>" in raw.items.column("title").to_pylist()
    assert raw.manifest["rejected"]["texts_with_markup"] == 4 and raw.num_items == 3


ODD = {"parent_asin": "z", "title": ["Zoo"], "other": 1}
UNEVEN = [
    {"parent_asin": "a", "title": "A", "price": 4.0, "categories": ["x", None, "", "y"], "store": "s"},
    {"parent_asin": "b", "title": "B", "price": 10000000000.0, "categories": [None], "store": None},
    {"parent_asin": "c", "title": "C", "price": None, "categories": None, "store": "None"},
    {"parent_asin": "d", "title": "D", "price": 3, "categories": [], "store": "NaN"},
    {"parent_asin": "e", "title": "E", "price": 1e-7, "categories": ["x"], "store": "s, "},
    {"parent_asin": "f", "title": "F", "price": float("nan"), "categories": ["nan"], "store": "t"},
]


def test_attributes_do_not_depend_on_the_parser_of_their_block(tmp_path):
    """A title that is a list makes Arrow refuse its block, which Python's parser reads in its place."""
    reviews = [{"rating": 5.0, "parent_asin": item, "user_id": "u", "timestamp": 1} for item in "abcdef"]
    read = []
    for name, metadata in {"arrow": UNEVEN, "python": [*UNEVEN, ODD]}.items():
        config = write_amazon(tmp_path / name, reviews, metadata, ".jsonl")
        config = config.model_copy(update={"attributes": ("price", "categories", "store")})
        rows = prepare_dataset(config, tmp_path / "cache").items.drop_columns("item_id").to_pylist()
        read.append({row["raw_id"]: [row[name] for name in ("price", "categories", "store")] for row in rows})
    assert read[0] == read[1]
    assert read[0]["a"] == ["4", "x, y", "s"]
    assert read[0]["b"] == ["10000000000", "", ""]
    assert read[0]["c"] == read[0]["d"][1:] + [""]


def test_times_of_json_lines_may_get_fractions_late(tmp_path):
    reviews = [
        {"rating": 5.0, "parent_asin": item, "user_id": "u", "timestamp": time}
        for item, time in (("a", 3), ("b", 2.25), ("c", 2.125))
    ]
    metadata = [{"parent_asin": item, "title": item} for item in "abc"]
    dataset = prepare_dataset(write_amazon(tmp_path / "raw", reviews, metadata, ".jsonl"), tmp_path / "cache")
    assert list(histories(dataset).values()) == [["c", "b", "a"]]


def test_files_may_begin_with_a_byte_order_mark(tmp_path):
    reviews = [{"rating": 5.0, "parent_asin": item, "user_id": "u", "timestamp": n} for n, item in enumerate("abc")]
    config = write_amazon(tmp_path / "raw", reviews, [{"parent_asin": item, "title": item} for item in "abc"], ".jsonl")
    plain = prepare_dataset(config, tmp_path / "cache")
    for path in (tmp_path / "raw").iterdir():
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert prepare_dataset(config, tmp_path / "cache").fingerprint == plain.fingerprint
