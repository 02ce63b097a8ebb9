"""Pairs of tables: the forms of the files, columns that are no attributes, a given split, rows that are left out."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laser.config.schema import DataConfig
from laser.data.dataset import Dataset
from laser.errors import UserError
from laser.sources.prepare import prepare_dataset

ROWS = "user,item,timestamp\nu1,a,1\nu1,b,2\nu1,c,3\nu1,a,4\nu2,b,1\n"
ITEMS = 'item,title,brand\na,Apple,x\nb,"Bread, ""dark""",y\nc,Cake,z\n'
Content = str | bytes | pa.Table


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., Dataset]:
    """Write files to a folder and prepare it."""

    def prepare(files: dict[str, Content], **settings) -> Dataset:
        for name, content in files.items():
            path = tmp_path / "shop" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, pa.Table):
                pq.write_table(content, path)
            else:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return prepare_dataset(DataConfig(path=str(tmp_path / "shop"), **settings), tmp_path / "cache")

    return prepare


@pytest.fixture
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("plain")
    (folder / "interactions.csv").write_text(ROWS)
    (folder / "items.csv").write_text(ITEMS)
    return prepare_dataset(DataConfig(path=str(folder)), folder / "cache").fingerprint


def items_of(dataset: Dataset) -> dict[str, list[str]]:
    """Title and attributes of each item."""
    table = dataset.items.drop_columns(["item_id"]).to_pylist()
    return {row.pop("raw_id"): list(row.values()) for row in table}


def split_at(delimiter: str, text: str) -> str:
    """Split all columns at another delimiter; the comma in quotes stays."""
    return text.replace("Bread, ", "Bread\0 ").replace(",", delimiter).replace("\0", ",")


PADDED = " user , item , timestamp\nu1, a , 1\nu1, b, 2\nu1, c,3\nu1,a,4\nu2,b,1\n"
FORMS: dict[str, dict[str, Content]] = {
    "semicolons": {"interactions.csv": split_at(";", ROWS), "items.csv": split_at(";", ITEMS)},
    "tabs in .csv": {"interactions.csv": split_at("\t", ROWS), "items.csv": split_at("\t", ITEMS)},
    "pipes, and each file its own": {"interactions.csv": split_at("|", ROWS), "items.csv": split_at(";", ITEMS)},
    ".tsv": {"interactions.tsv": split_at("\t", ROWS), "items.tsv": split_at("\t", ITEMS)},
    "padded": {
        "interactions.csv": PADDED,
        "items.csv": ITEMS.replace("item,", " item , ").replace("title", ' "title"'),
    },
    "gzipped": {"interactions.csv.gz": gzip.compress(ROWS.encode()), "items.csv.gz": gzip.compress(ITEMS.encode())},
    "gzipped .tsv": {"interactions.tsv.gz": gzip.compress(split_at("\t", ROWS).encode()), "items.csv": ITEMS},
    "user_id and item_id": {
        "interactions.csv": ROWS.replace("user,item", "user_id,item_id"),
        "items.csv": ITEMS.replace("item,", "item_id,"),
    },
    "parts": {
        "interactions.parquet/part-0.parquet": pa.table(
            {"user": ["u1"] * 3, "item": ["a", "b", "c"], "timestamp": [1, 2, 3]}
        ),
        "interactions.parquet/part-1.parquet": pa.table(
            {"user": ["u1", "u2"], "item": ["a", "b"], "timestamp": [4, 1]}
        ),
        "interactions.parquet/part-2.parquet": pa.table({"user": [""][:0], "item": [""][:0], "timestamp": [0][:0]}),
        "interactions.parquet/_SUCCESS": "",
        "items.csv": ITEMS,
    },
    "an index that pandas wrote": {
        "interactions.csv": "," + ROWS.replace("\nu", "\n7,u"),
        "items.csv": (
            ',Unnamed: 0,item,title,brand,index\n0,0,a,Apple,x,0\n1,1,b,"Bread, ""dark""",y,1\n2,2,c,Cake,z,2\n'
        ),
    },
    "an index in Parquet": {
        "interactions.csv": ROWS,
        "items.parquet": pa.table(
            {
                "item": ["a", "b", "c"],
                "title": ["Apple", 'Bread, "dark"', "Cake"],
                "brand": ["x", "y", "z"],
                "__index_level_0__": [5, 6, 9],
            }
        ),
    },
    "item rows that repeat": {"interactions.csv": ROWS, "items.csv": ITEMS + ITEMS[len("item,title,brand\n") :]},
    "unknown items": {
        "interactions.csv": ROWS.replace("u2,b,1", "u2,zzz,0\nu2,b,1") + "u1,yyy,9\n",
        "items.csv": ITEMS,
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_of_the_files_is_the_same_dataset(form: str, prepared: Callable[..., Dataset], plain: str):
    assert prepared(FORMS[form]).fingerprint == plain


def test_what_is_left_out_is_counted_once(prepared: Callable[..., Dataset]):
    rows = ROWS.replace("timestamp\n", "timestamp,rating\n").replace("\nu", ",5\nu").replace(",rating,5", ",rating")
    rows = rows.rstrip() + ",5\nu3,zzz,1,5\nu3,yyy,2,1\nu4,a,1,2\n"
    dataset = prepared({"interactions.csv": rows, "items.csv": ITEMS + "a,Apple,x\n"}, min_rating=3.0)
    rejected = dataset.facts()["rejected"]
    assert (dataset.num_users, dataset.num_interactions) == (2, 5)
    assert {reason: count for reason, count in rejected.items() if count} == {
        "interactions_below_min_rating": 2,
        "interactions_with_unknown_item": 1,
        "duplicate_items": 1,
        "users_without_interaction": 2,
    }
    assert dataset.described() == (
        "shop (min_rating=3.0): 2 users, 3 items, 5 interactions; left out: interactions_below_min_rating 2, "
        "interactions_with_unknown_item 1, duplicate_items 1, users_without_interaction 2"
    )


REFUSED: dict[str, tuple[dict[str, Content], str]] = {
    "another text of an item": (
        {"items.csv": ITEMS + "a,Apple,w\n"},
        "items.csv:5: duplicate item 'a', with another brand",
    ),
    "no item is known": (
        {"items.csv": "item,title\n1,Apple\n2,Bread\n"},
        "no interaction is left .*; name the columns of the same ids by data.item_column, data.items_id_column",
    ),
    "another column": (
        {"items.csv": ITEMS.replace("title", "words")},
        r"items.csv:1: no column 'title' \(split at ',', it",
    ),
    "another delimiter": (
        {"interactions.csv": ROWS.replace(",", ";").replace("user;", "who;")},
        r"interactions.csv:1: no column 'user' \(split at ';', it has: who, item, timestamp\)",
    ),
    "no delimiter": (
        {"interactions.csv": ROWS.replace(",", " ")},
        r"interactions.csv:1: no column 'user' \(not split by ',', it has: user item timestamp\)",
    ),
    "half a gzip file": (
        {"interactions.csv.gz": gzip.compress(ROWS.encode())[:-12]},
        "interactions.csv.gz:6: not a whole gzip file",
    ),
    "gzipped under another name": (
        {"interactions.csv": gzip.compress(ROWS.encode())},
        "csv:1: gzipped, though its name",
    ),
    "no gzip file": ({"interactions.csv.gz": ROWS}, "interactions.csv.gz:1: not a whole gzip file"),
    "parts that differ": (
        {
            "interactions/a.parquet": pa.table({"user": ["u"], "item": ["a"], "timestamp": [1]}),
            "interactions/b.parquet": pa.table({"user": ["u"], "item": ["a"], "when": [1]}),
        },
        r"b.parquet:1: it has: user, item, when, unlike a.parquet",
    ),
    "no parts": ({"interactions/_SUCCESS": ""}, "interactions: a folder without rows in files"),
    "two files": ({"interactions.csv": ROWS, "interactions.tsv": ROWS}, "holds 2 files interactions.csv or"),
    "two titles": ({"items.csv": "item,name,book_title\na,x,y\n"}, "'name' and 'book_title' may each be the title"),
    "no validation": ({"train.csv": ROWS, "test.csv": ROWS}, "holds 0 files valid.csv or"),
    "a split against time": (
        {"train.csv": ROWS, "valid.csv": "user,item,timestamp\nu2,a,0\n", "test.csv": "user,item,timestamp\nu1,b,9\n"},
        "the split is against time: user 'u2' has an interaction later than one of the next split",
    ),
    "an id that is nan between blanks": (
        {"interactions.csv": ROWS + "u1, nan ,9\n"},
        "csv:7: nothing in column 'item'",
    ),
    "an attribute without text": (
        {"items/a.parquet": pa.table({"item": ["a"], "title": ["A"], "size": [{"cm": 1}]})},
        "column 'size' holds struct.*choose other columns by data.attributes",
    ),
    "a wrong time in a split": (
        {"train.csv": ROWS, "valid.csv": "user,item,timestamp\nu2,a,5\nu1,a,x\n", "test.csv": ROWS},
        "valid.csv:3: timestamp 'x'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_named(case: str, prepared: Callable[..., Dataset]):
    files, message = REFUSED[case]
    given = {"interactions.csv": ROWS} if not any(name.startswith(("interactions", "train")) for name in files) else {}
    with pytest.raises(UserError, match=message):
        prepared({**({} if "items/a.parquet" in files else {"items.csv": ITEMS}), **given, **files})


@pytest.mark.parametrize("suffix", [".csv", ".tsv.gz"])
def test_a_given_split_in_the_order_of_time_is_kept(suffix: str, prepared: Callable[..., Dataset]):
    parts = {"train": "u1,c,2\nu1,a,1\nu2,a,1\nu3,a,1\n", "val": "u1,b,3\nu2,b,1\n", "test": "u1,a,3\nu1,c,4\nu3,c,2\n"}
    texts = {name: f"user,item,timestamp\n{rows}" for name, rows in parts.items()}
    if suffix == ".tsv.gz":
        texts = {name: gzip.compress(split_at("\t", text).encode()) for name, text in texts.items()}
    dataset = prepared({"items.csv": ITEMS, **{f"{name}{suffix}": text for name, text in texts.items()}})
    raw = dataset.items.column("raw_id").to_pylist()
    assert [[raw[item] for item in dataset.train_items(user)] for user in range(3)] == [["a", "c"], ["a"], ["a"]]
    assert [raw[item] for item in dataset.examples("val").targets] == ["b", "b"]
    test = dataset.examples("test")
    assert [[raw[item] for item in test.history(row)] for row in range(2)] == [["a", "c", "b"], ["a"]]
    assert [raw[item] for item in test.targets] == ["a", "c"]


def test_chosen_attributes_may_have_the_name_of_an_index(prepared: Callable[..., Dataset]):
    items = "Unnamed: 0,item,title,index\n8,a,Apple,0\n9,b,Bread,1\n"
    dataset = prepared({"interactions.csv": ROWS, "items.csv": items}, attributes=("Unnamed: 0", "index"))
    assert items_of(dataset) == {"a": ["Apple", "8", "0"], "b": ["Bread", "9", "1"]}


def test_a_column_named_index_that_counts_nothing_is_an_attribute(prepared: Callable[..., Dataset]):
    items = "item,title,index,x\na,Apple,3,left\nb,Bread,1,right\nc,Cake,2,left\n"
    assert prepared({"interactions.csv": ROWS, "items.csv": items}).item_attributes == ("index", "x")


@pytest.mark.parametrize("name", ["index", "#", "...1", "V1", "_c0", "No.", "row_number", "id", "S.No", "seq"])
@pytest.mark.parametrize("numbers", ["1 2 3", "0.0 1.0 2.0"])
def test_a_column_that_counts_the_rows_is_an_index(name: str, numbers: str, prepared: Callable[..., Dataset]):
    assert attributes_with(prepared, name, numbers.split()) == ()


@pytest.mark.parametrize("name", ["index", "level_0", "idx", "RowIndex"])
def test_the_index_of_a_table_that_was_filtered_leaves_numbers_out(name: str, prepared: Callable[..., Dataset]):
    assert attributes_with(prepared, name, ["4", "7", "30"]) == ()


@pytest.mark.parametrize("numbers", ["4 7 30", "2 3 4", "1 2 2", "1 3 2", "1 2 x"])
def test_a_number_that_only_grows_is_an_attribute(numbers: str, prepared: Callable[..., Dataset]):
    assert attributes_with(prepared, "number", numbers.split()) == ("number",)


def test_a_word_for_a_missing_value_may_have_blanks_around_it(prepared: Callable[..., Dataset]):
    dataset = prepared(
        {"interactions.csv": ROWS, "items.csv": "item,title,brand\na, Apple ,  NaN\nb, nan ,x\nc,Cake,null \n"}
    )
    assert items_of(dataset) == {"a": ["Apple", ""], "c": ["Cake", ""]}


def attributes_with(prepared: Callable[..., Dataset], name: str, values: list[str]) -> tuple[str, ...]:
    rows = zip(values, ("a,Apple", "b,Bread", "c,Cake"), strict=True)
    items = f"{name},item,title\n" + "".join(f"{value},{item}\n" for value, item in rows)
    return prepared({"interactions.csv": ROWS, "items.csv": items}).item_attributes


@pytest.mark.parametrize(("column", "settings"), [("id", {}), ("sku", {"items_id_column": "sku"}), ("item_id", {})])
def test_the_id_may_have_another_name_in_the_items(column: str, settings: dict, prepared: Callable[..., Dataset]):
    rows, items = ROWS.replace("item", "product"), ITEMS.replace("item,", f"{column},")
    dataset = prepared({"interactions.csv": rows, "items.csv": items}, item_column="product", **settings)
    assert items_of(dataset)["a"] == ["Apple", "x"]
