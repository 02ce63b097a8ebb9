"""Each kind of bad input: exit status 2, one line that names file and line, and nothing left behind."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from laser.config.schema import DataConfig
from laser.errors import UserError
from laser.sources.prepare import prepare_dataset

INTERACTIONS = "user,item,timestamp,rating\nu1,a,1,5\nu1,b,2,5\nu1,c,3,5\n"
ITEMS = "item,title\na,Apple\nb,Bread\nc,Cake\n"
INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t1\t3\t1\n1\t2\t3\t2\n1\t3\t3\t3\n"
ITEM = "item_id:token\tmovie_title:token_seq\n1\tToy Story\n2\tGolden Eye\n3\tFour Rooms\n"
RECFORMER = {
    "train.json": {"0": [0, 1]},
    "val.json": {"0": [2]},
    "test.json": {"0": [0]},
    "meta_data.json": {"a": {"title": "A"}, "b": {"title": "B"}, "c": {"title": "C"}},
    "smap.json": {"a": 0, "b": 1, "c": 2},
    "umap.json": {"u": 0},
}
REVIEWS = "".join(
    f'{{"overall": 5.0, "reviewerID": "u1", "asin": "{item}", "unixReviewTime": {time}, "reviewText": "good"}}\n'
    for item, time in (("a", 1), ("b", 2), ("c", 3))
)
METADATA = "".join(f'{{"asin": "{item}", "title": "{item}", "category": ["x", "y"]}}\n' for item in "abc")


def pairs(folder: Path) -> None:
    (folder / "interactions.csv").write_text(INTERACTIONS)
    (folder / "items.csv").write_text(ITEMS)


def recbole(folder: Path) -> None:
    (folder / "ml.inter").write_text(INTER)
    (folder / "ml.item").write_text(ITEM)


def recformer(folder: Path) -> None:
    for name, content in RECFORMER.items():
        (folder / name).write_text(json.dumps(content))


def amazon(folder: Path) -> None:
    (folder / "Toys.json").write_text(REVIEWS)
    (folder / "meta_Toys.json").write_text(METADATA)


def amazon_gzipped(folder: Path) -> None:
    (folder / "Toys.json.gz").write_bytes(gzip.compress(REVIEWS.encode()))
    (folder / "meta_Toys.json.gz").write_bytes(gzip.compress(METADATA.encode()))


def review(line: int, old: str, new: str) -> str:
    """The reviews with one of them changed."""
    lines = REVIEWS.splitlines(keepends=True)
    lines[line - 1] = lines[line - 1].replace(old, new)
    return "".join(lines)


CASES = {
    "missing column": (pairs, "interactions.csv", INTERACTIONS.replace("timestamp", "when"), ":1: no column"),
    "unparsable timestamp": (pairs, "interactions.csv", INTERACTIONS + "u2,a,soon,5\n", ":5: timestamp 'soon'"),
    "duplicate item": (pairs, "items.csv", ITEMS + "a,Again\n", ":5: duplicate item 'a'"),
    "empty file": (pairs, "interactions.csv", "", ":1: empty file"),
    "header alone": (pairs, "items.csv", "item,title\n", ":1: a header and no rows"),
    "not UTF-8": (pairs, "items.csv", ITEMS.encode() + b"d,\xff\xfe\n", ":5: byte 0xff is not UTF-8"),
    "a row too long": (pairs, "interactions.csv", INTERACTIONS + "u2,a,4,5,6,7\n", ":5: "),
    "after a blank line": (
        pairs,
        "interactions.csv",
        "\n".join((*INTERACTIONS.split("\n"), "u2,a,soon,5\n")),
        ":6: time",
    ),
    "a fraction, then nonsense": (
        pairs,
        "interactions.csv",
        INTERACTIONS + "u2,a,.5,5\nu2,a,x,5\n",
        ":6: timestamp 'x'",
    ),
    "an attribute twice": (pairs, "items.csv", "item,title,tag,tag\na,A,x,y\n", ":1: two columns 'tag'"),
    "a column twice": (pairs, "items.csv", ITEMS.replace("title", "item"), ":1: two columns 'item'"),
    "empty user": (pairs, "interactions.csv", INTERACTIONS + ",a,4,5\n", ":5: "),
    "recbole: missing column": (recbole, "ml.inter", INTER.replace("item_id", "film"), ":1: no column 'item_id'"),
    "recbole: unparsable timestamp": (recbole, "ml.inter", INTER + "2\t1\t3\tx\n", ":5: timestamp"),
    "recbole: duplicate item": (recbole, "ml.item", ITEM + "1\tAgain\n", ":5: duplicate item '1'"),
    "recbole: empty file": (recbole, "ml.item", "", ":1: empty file"),
    "recbole: not UTF-8": (recbole, "ml.item", ITEM.encode() + b"4\t\xff\n", ":5: byte 0xff is not UTF-8"),
    "recformer: not JSON": (recformer, "train.json", '{"0": [0,', "train.json:1: not JSON"),
    "recformer: an item that is no number": (recformer, "train.json", '{\n"0": [0, "a"]}', "train.json:2: user '0'"),
    "recformer: duplicate user": (recformer, "train.json", '{"0": [0],\n"0": [1]}', "train.json:1: duplicate key '0'"),
    "recformer: duplicate item": (recformer, "smap.json", '{"a": 0, "b": 0, "c": 2}', "duplicate item number 0"),
    "recformer: empty file": (recformer, "val.json", "", "val.json:1: empty file"),
    "amazon: not JSON": (amazon, "Toys.json", REVIEWS + "{'reviewerID': 'u2'}\n", "Toys.json:4: "),
    "amazon: a line cut off": (amazon, "Toys.json", REVIEWS + '{"reviewerID": "u2", "as', "Toys.json:4: "),
    "amazon: no object": (amazon, "Toys.json", REVIEWS + "[1, 2]\n", "Toys.json:4: holds a list"),
    "amazon: missing column": (amazon, "Toys.json", REVIEWS.replace("asin", "sku"), ":1: no column 'asin'"),
    "amazon: missing field": (amazon, "Toys.json", review(2, '"reviewerID": "u1", ', ""), ":2: nothing in column"),
    "amazon: missing time": (amazon, "Toys.json", review(3, '"unixReviewTime"', '"when"'), ":3: unixReviewTime ''"),
    "amazon: unparsable time": (amazon, "Toys.json", review(2, ": 2,", ': "soon",'), ":2: unixReviewTime 'soon'"),
    "amazon: after a blank line": (amazon, "Toys.json", "\n" + review(2, ": 2,", ': "soon",'), ":3: unixReviewTime"),
    "amazon: item without id": (amazon, "meta_Toys.json", METADATA + '{"title": "d"}\n', ":4: no id in column 'asin'"),
    "amazon: empty file": (amazon, "Toys.json", "", "Toys.json:1: empty file"),
    "amazon: not UTF-8": (amazon, "Toys.json", REVIEWS.encode() + b'{"asin": "\xff"}\n', ":4: byte 0xff is not UTF-8"),
    "amazon: cut off": (
        amazon_gzipped,
        "Toys.json.gz",
        gzip.compress(REVIEWS.encode())[:-12],
        "Toys.json.gz:3: not a whole gzip file",
    ),
    "amazon: not gzip": (amazon_gzipped, "meta_Toys.json.gz", METADATA, "meta_Toys.json.gz:1: not a whole gzip file"),
    "amazon: gzipped and wrong": (
        amazon_gzipped,
        "Toys.json.gz",
        gzip.compress((REVIEWS + "nonsense\n").encode()),
        "Toys.json.gz:4: 'nonsense' is not JSON",
    ),
    "recformer: not UTF-8": (recformer, "meta_data.json", b'{"a":\n"\xff"}', "meta_data.json:2: byte 0xff"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_files_are_named_by_line_and_leave_nothing(case: str, tmp_path: Path):
    write, name, content, message = CASES[case]
    folder, cache = tmp_path / "raw", tmp_path / "cache"
    folder.mkdir()
    write(folder)
    prepare_dataset(DataConfig(path=str(folder)), tmp_path / "good")  # without the damage it is fine
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        prepare_dataset(DataConfig(path=str(folder)), cache)
    said = str(caught.value)
    assert str(folder / name) in said
    assert message in said
    assert "\n" not in said
    assert [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.path=nowhere"], "data.path: nowhere: no such folder"),
        (["data.k_core=-1"], "data.k_core: -1"),
        (["data.k_core=many"], 'data.k_core: "many"'),
        (["data.kcore=3"], "data.kcore: no such setting; did you mean k_core?"),
        (["data.k_core"], "data.k_core: not of the form key=value"),
        (["config=nowhere.yaml"], "config: nowhere.yaml: No such file"),
        (["recommender.type=gru"], "recommender.type"),
        (["recommender.hidden_size=7"], "not a multiple of num_heads"),
        (["data.path=pypi:recbole"], "wanted pypi:<package>==<version>#<folder in the wheel>"),
    ],
)
def test_jobs_leave_with_status_2_and_one_line(repo: Path, tmp_path: Path, arguments: list[str], message: str):
    job = [sys.executable, str(repo / "jobs/prepare.py"), f"config={repo / 'configs/quickstart.yaml'}", *arguments]
    result = subprocess.run(job, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_sample_of_the_default_configuration_leaves_own_data_alone(repo: Path, tmp_path: Path):
    folder = tmp_path / "mine"
    folder.mkdir()
    pairs(folder)
    result = subprocess.run(
        [sys.executable, str(repo / "jobs/prepare.py"), f"data.path={folder}", f"cache_dir={tmp_path / 'cache'}"],
        cwd=repo, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["num_interactions"], set(summary["rejected"].values())) == (3, {0})
    assert "data.k_core=30 of " in result.stderr
    assert "mine: 1 users, 3 items, 3 interactions; left out: nothing" in result.stderr
