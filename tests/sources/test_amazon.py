"""Dumps of Amazon reviews: both releases, their known defects, and fields that differ from line to line."""

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
