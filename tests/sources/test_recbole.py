"""RecBole's atomic files: ids of two names, benchmark files, histories in rows."""

from pathlib import Path

import pytest

from laser.config.schema import DataConfig
from laser.errors import UserError
from laser.sources.prepare import prepare_dataset

INTER = "user_id:token\titem_id:token\ttimestamp:float\n"
ITEM = 'item_id:token\ttitle:token_seq\na\t"Apple\nb\tBread\nc\tCake\n'


def test_steam_and_lastfm_have_two_names_for_an_item(tmp_path: Path):
    (tmp_path / "steam.inter").write_text(INTER.replace("item_id", "product_id") + "u\t10\t1\nu\t20\t2\nu\t30\t3\n")
    header = "app_name:token\tgenres:token_seq\tid:token\ttitle:token\n"
    (tmp_path / "steam.item").write_text(header + "A\tx\t10\tOne\nB\ty\t20\tTwo\nC\tz\t30\tThree\n")
    dataset = prepare_dataset(DataConfig(path=str(tmp_path), item_column="product_id"), tmp_path / "cache")
    assert sorted(dataset.items.column("title").to_pylist()) == ["One", "Three", "Two"]
    assert dataset.item_attributes == ("app_name", "genres")


def test_benchmark_files_are_a_given_split(tmp_path: Path):
    (tmp_path / "shop.item").write_text(ITEM)
    for name, rows in (("train", "u\ta\t1\nu\tb\t2\n"), ("valid", "u\tc\t3\n"), ("test", "u\ta\t4\nu\tb\t5\n")):
        (tmp_path / f"shop.{name}.inter").write_text(INTER + rows)
    dataset = prepare_dataset(DataConfig(path=str(tmp_path)), tmp_path / "cache")
    raw = dataset.items.column("raw_id").to_pylist()
    assert [raw[item] for item in dataset.train_items(0)] == ["a", "b"]
    assert [raw[dataset.examples(split).targets[0]] for split in ("val", "test")] == ["c", "a"]
    (tmp_path / "shop.valid.inter").unlink()
    with pytest.raises(UserError, match=r"holds 0 files \*\.valid\.inter, wanted one"):
        prepare_dataset(DataConfig(path=str(tmp_path)), tmp_path / "cache")


def test_a_history_in_each_row_is_refused(tmp_path: Path):
    (tmp_path / "shop.item").write_text(ITEM)
    for name in ("train", "valid", "test"):
        (tmp_path / f"shop.{name}.inter").write_text(
            "user_id:token\titem_id_list:token_seq\titem_id:token\nu\ta b\tc\n"
        )
    with pytest.raises(
        UserError, match=r"shop\.train\.inter:1: a history in each row .*; wanted one interaction a row"
    ):
        prepare_dataset(DataConfig(path=str(tmp_path)), tmp_path / "cache")
