"""The tables that users hand over, and what is refused of them."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laser.errors import UserError
from laser.serving.files import ITEM, read_histories, read_ids


def test_interactions_are_joined_in_the_order_of_time_and_then_of_rows(tmp_path):
    path = tmp_path / "h.csv"
    path.write_text("user,item,timestamp\nb,3,2\na,1,5\nb,2,1\na,9,5\nb,3,2\n")
    assert read_histories(path) == {"b": ("2", "3", "3"), "a": ("1", "9")}
    path.write_text("item_id\tuser_id\n7\tx\n8\tx\n")
    assert read_histories(path) == {"x": ("7", "8")}
    path.write_text("user;item\nx; 7 \n x;8\n")
    assert read_histories(path) == {"x": ("7", "8")}
    path.write_text("user,item,time\na,2,2024-01-02T00:00:00\na,1,2024-01-01T00:00:00\n")
    assert read_histories(path) == {"a": ("1", "2")}


def test_whole_histories_from_json_and_parquet(tmp_path):
    (tmp_path / "h.jsonl").write_text('{"user": "a", "items": ["x", 2]}\n\n{"user_id": 5, "items": []}\n')
    assert read_histories(tmp_path / "h.jsonl") == {"a": ("x", "2"), "5": ()}
    pq.write_table(pa.table({"user": [1, 2], "items": [["x"], []]}), tmp_path / "h.parquet")
    assert read_histories(tmp_path / "h.parquet") == {"1": ("x",), "2": ()}
    pq.write_table(pa.table({"user": [1, 1], "item": ["x", "y"]}), tmp_path / "h.parquet")
    assert read_histories(tmp_path / "h.parquet") == {"1": ("x", "y")}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("h.jsonl", '{"user": "a", "items": ["x"]}\n{"user": "a", "items": []}\n', "h.jsonl:2: user 'a' has a history"),
        ("h.jsonl", '{"user": "a"}\n', "h.jsonl:1: wanted"),
        ("h.jsonl", '{"user": "a", "items": [{}]}\n', "h.jsonl:1: wanted"),
        ("h.jsonl", "[1]\n", "h.jsonl:1: wanted"),
        ("h.jsonl", "{\n", "h.jsonl:1: not JSON"),
        ("h.jsonl", "", "no history"),
        ("h.csv", "user,thing\na,b\n", "no column 'item'"),
        ("h.csv", "user,item\na,\n", "h.csv:2: no item"),
        ("h.csv", "user,item,time\na,b,soon\n", "h.csv:2: time 'soon'"),
    ],
)
def test_malformed_histories_are_refused_by_line(name, content, says, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=says):
        read_histories(tmp_path / name)


def test_a_missing_file_is_refused(tmp_path):
    for name in ("h.csv", "h.jsonl", "h.parquet"):
        with pytest.raises(UserError, match=f"histories: .*{name}: no readable file"):
            read_histories(tmp_path / name)


def test_ids_from_lines_and_columns(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("a\n\n b \na\n")
    assert read_ids(path, "allowed", ITEM) == ["a", "b"]
    path.write_text("title,item_id\nA,1\nB,2\n")
    assert read_ids(path, "allowed", ITEM) == ["1", "2"]
    for header in ('"item"; title', " item |title", "\ufeffitem\ttitle"):
        delimiter = next(mark for mark in ";|\t" if mark in header)
        path.write_text(f'{header}\n 1 {delimiter} A\n"2"{delimiter}B\n', encoding="utf-8")
        assert read_ids(path, "allowed", ITEM) == ["1", "2"]
    path.write_text('a item\n5" x\n')
    assert read_ids(path, "allowed", ITEM) == ["a item", '5" x']
    zipped = tmp_path / "ids.csv.gz"
    zipped.write_bytes(gzip.compress(b"item,title\n1,A\n"))
    assert read_ids(zipped, "allowed", ITEM) == ["1"]
    zipped.write_bytes(b"item,title\n1,A\n")
    with pytest.raises(UserError, match="not a whole gzip file"):
        read_ids(zipped, "allowed", ITEM)
    path.write_text("\n")
    with pytest.raises(UserError, match="allowed: .* holds no id"):
        read_ids(path, "allowed", ITEM)
