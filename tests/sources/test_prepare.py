"""Filters, time order, split and numbering of a prepared dataset."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from laser.config.schema import DataConfig
from laser.errors import UserError
from laser.evaluation.metrics import ranking_metrics
from laser.ingest import interactions, numbering, order, streams
from laser.sources.prepare import prepare_dataset
from tiny.tables import INTERACTIONS, ITEMS


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    folder = tmp_path / "pairs"
    folder.mkdir()
    (folder / "interactions.csv").write_text(INTERACTIONS)
    (folder / "items.csv").write_text(ITEMS)
    return folder


def histories(dataset) -> dict[str, list[str]]:
    """Raw items of each user, in order."""
    raw = dataset.items.column("raw_id").to_pylist()
    users = pq.read_table(dataset.path / "sequences.parquet").column(0).to_pylist()
    rows = zip(users, dataset.offsets[:-1], dataset.offsets[1:], strict=True)
    return {str(user): [raw[i] for i in dataset.item_ids[start:end]] for user, start, end in rows}


def test_interactions_are_ordered_by_time_and_ties_stay_in_file_order(pairs, tmp_path):
    dataset = prepare_dataset(DataConfig(path=str(pairs)), tmp_path / "cache")
    assert sorted(histories(dataset).values()) == [["b", "a", "d"], ["b", "c", "a", "d"], ["c"]]


def test_items_without_title_are_dropped_and_counted(pairs, tmp_path):
    dataset = prepare_dataset(DataConfig(path=str(pairs)), tmp_path / "cache")
    assert "untitled" not in dataset.items.column("raw_id").to_pylist()
    assert sum(dataset.manifest["rejected"].values()) > 0
    assert (dataset.num_users, dataset.num_interactions) == (3, 8)


def test_markup_is_told_and_cleaned_where_it_is_asked_for(pairs, tmp_path, caplog):
    plain = prepare_dataset(DataConfig(path=str(pairs)), tmp_path / "cache")
    assert "texts_with_markup" not in plain.manifest["rejected"] and "clean_texts" not in caplog.text
    table = (pairs / "items.csv").read_text().splitlines()
    (pairs / "items.csv").write_text("\n".join([*table, "e,Salt &amp; <b>Pepper</b>,Acme", "f,I <3  you,Acme"]) + "\n")
    (pairs / "interactions.csv").write_text(INTERACTIONS + "u9,e,5,1\nu9,f,5,2\n")
    titles = []
    for clean_texts in (None, True, False):
        config = DataConfig(path=str(pairs), clean_texts=clean_texts)
        dataset = prepare_dataset(config, tmp_path / "cache")
        titles.append({title for title in dataset.items.column("title").to_pylist() if title[0] in "SI"})
    assert titles == [{"Salt &amp; <b>Pepper</b>", "I <3  you"}, {"Salt & Pepper", "I <3 you"}, titles[0]]
    assert caplog.text.count("1 texts of items hold entities or markup, such as &amp; or <b>") == 1
    assert "are read as they are; data.clean_texts=true" in caplog.text


def test_a_process_says_once_what_the_data_are(pairs, tmp_path, caplog):
    caplog.set_level("INFO")
    folder = pairs.rename(tmp_path / "told_once")
    for _ in range(2):
        prepare_dataset(DataConfig(path=str(folder)), tmp_path / "cache")
    assert sum(line.startswith("data told_once") for line in caplog.messages) == 1


def test_low_ratings_are_dropped(pairs, tmp_path):
    dataset = prepare_dataset(DataConfig(path=str(pairs), min_rating=4.0), tmp_path / "cache")
    assert sorted(histories(dataset).values()) == [["b", "a", "d"], ["b", "a", "d"], ["c"]]


def test_k_core_repeats_until_every_user_and_item_has_enough(pairs, tmp_path):
    # 2-core: u3 has one interaction, so it goes; then c has one left, so it goes too; all others keep at least two.
    dataset = prepare_dataset(DataConfig(path=str(pairs), k_core=2), tmp_path / "cache")
    assert sorted(histories(dataset).values()) == [["b", "a", "d"], ["b", "a", "d"]]
    assert sorted(dataset.items.column("raw_id").to_pylist()) == ["a", "b", "d"]


def test_leave_one_out(pairs, tmp_path):
    dataset = prepare_dataset(DataConfig(path=str(pairs)), tmp_path / "cache")
    raw = np.array(dataset.items.column("raw_id").to_pylist())
    for split, length, target in (("train", 1, "c"), ("val", 2, "a"), ("test", 3, "d")):
        examples = dataset.examples(split)
        [index] = [i for i in range(len(examples)) if list(raw[examples.history(i)][:1]) == ["b"]
                   and len(examples.history(i)) == length and raw[examples.targets[i]] == target]  # fmt: skip
        assert list(raw[examples.history(index)]) == ["b", "c", "a"][:length]


def test_csv_and_parquet_pairs_are_the_same_dataset(pairs, tmp_path):
    other = tmp_path / "parquet"
    other.mkdir()
    rows = [line.split(",") for line in INTERACTIONS.splitlines()[1:]]
    users, items, times, ratings = map(list, zip(*rows, strict=True))
    table = {"user": users, "item": items, "timestamp": [int(t) for t in times], "rating": [float(r) for r in ratings]}
    pq.write_table(pa.table(table), other / "interactions.parquet")
    named = [line.split(",") for line in ITEMS.splitlines()[1:]]
    items_table = {"item": [r[0] for r in named], "title": [r[1] for r in named], "brand": [r[2] for r in named]}
    pq.write_table(pa.table(items_table), other / "items.parquet")
    cache = tmp_path / "cache"
    fingerprints = {prepare_dataset(DataConfig(path=str(path)), cache).fingerprint for path in (pairs, other)}
    assert len(fingerprints) == 1


def test_fractions_of_seconds_may_come_late(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "BLOCK_BYTES", 16)  # so that whole seconds have been read when the fraction comes
    text = INTERACTIONS + "u3,a,1.5,5\nu3,b,.5,5\n"
    (pairs / "interactions.csv").write_text(text)
    dataset = prepare_dataset(DataConfig(path=str(pairs)), tmp_path / "cache")
    assert sorted(histories(dataset).values()) == [["b", "a", "d"], ["b", "c", "a"], ["b", "c", "a", "d"]]


def write_log(folder: Path, num_interactions: int) -> DataConfig:
    random = np.random.default_rng(0)
    folder.mkdir()
    items = [f"item {number}" for number in range(300)]
    users = (2000 * random.random(num_interactions) ** 2).astype(int).astype(str)
    columns = {"user": users, "item": random.choice(items, num_interactions)}
    columns["timestamp"] = random.integers(0, 1000, num_interactions)
    csv.write_csv(pa.table(columns), folder / "interactions.csv")
    csv.write_csv(pa.table({"item": items, "title": items}), folder / "items.csv")
    return DataConfig(path=str(folder), k_core=8)


def test_what_does_not_fit_into_memory_is_prepared_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(order, "BLOCK_ROWS", 5000)  # several blocks of users
    config = write_log(tmp_path / "log", 60_000)
    roomy = prepare_dataset(config, tmp_path / "roomy")
    monkeypatch.setattr(streams, "BLOCK_BYTES", 50_000)
    monkeypatch.setattr(numbering, "PIECE_ROWS", 7000)
    spilled = []
    spill = interactions.Interactions.pop
    monkeypatch.setattr(
        interactions.Interactions, "pop", lambda self, number: spilled.append(self.spilled) or spill(self, number)
    )
    tight = prepare_dataset(config.model_copy(update={"memory_mib": 1}), tmp_path / "tight")
    assert spilled
    assert all(spilled)
    assert (tight.path.name, tight.fingerprint) == (roomy.path.name, roomy.fingerprint)
    for name in ("items.parquet", "sequences.parquet", "splits.parquet", "manifest.json"):
        assert (tight.path / name).read_bytes() == (roomy.path / name).read_bytes()
    assert sorted(path.name for path in tight.path.parent.iterdir()) == [tight.path.name, f"{tight.path.name}.lock"]


def test_the_second_request_finds_it_prepared(pairs, tmp_path):
    config, cache = DataConfig(path=str(pairs)), tmp_path / "cache"
    first = prepare_dataset(config, cache)
    written = (first.path / "manifest.json").stat().st_mtime_ns
    assert prepare_dataset(config, cache).path == first.path
    assert (first.path / "manifest.json").stat().st_mtime_ns == written


def test_the_working_directory_has_a_name_and_its_other_files_do_not_matter(pairs, tmp_path, monkeypatch):
    monkeypatch.chdir(pairs)
    config = DataConfig(path=".")
    first = prepare_dataset(config, tmp_path / "cache")
    assert (first.name, first.path.name.rpartition("-")[0]) == ("pairs", "pairs")
    (pairs / "mlflow.db").write_bytes(b"a run")
    assert prepare_dataset(config, tmp_path / "cache").path == first.path
    assert prepare_dataset(DataConfig(path=str(pairs)), tmp_path / "cache").path == first.path


@pytest.mark.parametrize("name", ["film" * 60, "\u661f" * 80, "q?x=1", "p%20q", 'Bob\'s "best" [1]'])
@pytest.mark.parametrize("cache", ["a:b", "s3://c", "d e", "."])
def test_folders_may_have_any_name(name, cache, pairs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs.rename(tmp_path / name)
    dataset = prepare_dataset(DataConfig(path=name), Path(cache))
    assert dataset.name == name and dataset.path.is_relative_to(tmp_path / cache)
    assert dataset.num_interactions == 8


def test_a_name_that_is_no_text_is_refused(pairs, monkeypatch):
    odd = pairs.rename(pairs.with_name(os.fsdecode(b"caf\xe9")))
    monkeypatch.chdir(odd)
    with pytest.raises(UserError, match="a name that is not UTF-8; rename the folder"):
        prepare_dataset(DataConfig(path="."), Path("cache"))


def test_blanks_around_a_rating_are_no_part_of_it(pairs, tmp_path):
    padded = INTERACTIONS.replace(",", " , ")
    (pairs / "interactions.csv").write_text(padded)
    dataset = prepare_dataset(DataConfig(path=str(pairs), min_rating=4.0), tmp_path / "cache")
    assert sorted(histories(dataset).values()) == [["b", "a", "d"], ["b", "a", "d"], ["c"]]


def test_a_format_that_the_folder_has_not_is_told_which_it_has(pairs, tmp_path):
    with pytest.raises(
        UserError, match=r"data\.format: recbole; .* holds interactions.csv .*: set data.format to pairs"
    ):
        prepare_dataset(DataConfig(path=str(pairs), format="recbole"), tmp_path / "cache")


def test_changed_files_are_another_dataset(pairs, tmp_path):
    config, cache = DataConfig(path=str(pairs)), tmp_path / "cache"
    before = prepare_dataset(config, cache).fingerprint
    (pairs / "interactions.csv").write_text(INTERACTIONS + "u3,d,2,5\n")
    assert prepare_dataset(config, cache).fingerprint != before


def test_a_prepared_dataset_whose_files_are_others_now_is_refused(pairs, tmp_path):
    made = prepare_dataset(DataConfig(path=str(pairs)), tmp_path / "cache").path
    named = DataConfig(path=str(made))
    assert prepare_dataset(named, tmp_path / "cache").path == made
    items = pq.read_table(made / "items.parquet")
    pq.write_table(items.slice(1), made / "items.parquet")
    with pytest.raises(UserError, match=r"items\.parquet: altered since it was prepared; prepare it again"):
        prepare_dataset(named, tmp_path / "cache")


def test_recbole_files_of_the_wheel(movielens):
    assert (movielens.num_users, movielens.num_interactions) == (943, 100_000)
    assert json.loads((movielens.path / "manifest.json").read_text())["fingerprint"] == movielens.fingerprint


def test_a_scorer_that_prefers_the_next_id_is_at_chance(shared_data: Path, tmp_path: Path):
    """RecFormer folders number items by first appearance, so that the raw next number is often the answer."""
    dataset = prepare_dataset(DataConfig(path=str(shared_data / "Scientific_mini")), tmp_path)
    examples = dataset.examples("test")
    last = np.array([examples.history(i)[-1] for i in range(len(examples))])
    distance = (examples.targets - last) % dataset.num_items  # 1 is the next id, and ranks first
    ours = ranking_metrics(np.where(distance == 0, dataset.num_items, distance))["recall@10"]
    raw = np.array([int(i) for i in raw_numbers(shared_data / "Scientific_mini", dataset)])
    theirs = (raw[examples.targets] - raw[last]) % dataset.num_items
    assert np.mean((theirs >= 1) & (theirs <= 10)) > 0.05  # the leak is in the files
    chance = 10 / dataset.num_items  # .0063; 3,000 users give a standard error of .0015
    assert abs(ours - chance) < 4 * np.sqrt(chance / len(examples))


def raw_numbers(folder: Path, dataset) -> list[int]:
    smap = json.loads((folder / "smap.json").read_text())
    return [smap[raw] for raw in dataset.items.column("raw_id").to_pylist()]
