"""Rows of delimited text are those of pandas, wherever a block ends, and messages name their line."""

import io
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laser.errors import UserError
from laser.ingest import rows, streams
from laser.ingest.tables import DelimitedFile

HEADER = "item,title,brand\n"
PLAIN = st.lists(st.sampled_from(["a", " ", "é", "x1", 'b"', '""c']), max_size=3).map("".join)
QUOTED = st.lists(st.sampled_from(["a", ",", '""', "\n", "\r\n", "\r", " ", "é"]), max_size=6).map("".join)
FIELD = st.one_of(
    PLAIN.filter(lambda text: not text.startswith(chr(34))),
    st.tuples(QUOTED, PLAIN).map(lambda parts: f'"{parts[0]}"{parts[1]}'),
)
# Not "\n\r": behind it pandas loses a delimiter that begins a row.
BREAK = st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\n  \n", "\r\n\t\r\n"])
ROW = st.tuples(FIELD, FIELD, FIELD, BREAK).map(lambda parts: ",".join(parts[:3]) + parts[3])


def read(path: Path) -> list[tuple]:
    file = DelimitedFile(path, ",", typed_header=False)
    columns = file.read(file.column_names).columns
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


def pandas_rows(content: bytes) -> list[tuple]:
    table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    return list(table.itertuples(index=False, name=None))


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(
    content=st.lists(ROW, min_size=1, max_size=30).map("".join),
    block=st.integers(120, 300),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    end=st.sampled_from(["", "\n", "last,row,here"]),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
def test_rows_are_those_of_pandas(content, block, sizes, end, mark, tmp_path_factory):
    text = mark + (HEADER + content + end).encode()
    path = tmp_path_factory.mktemp("rows") / "items.csv"
    path.write_bytes(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "BLOCK_BYTES", block)
        patch.setattr(rows, "SLICE_BYTES", sizes[0])
        patch.setattr(rows, "TAIL_BYTES", sizes[1])
        assert read(path) == pandas_rows(text)


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
def test_rows_beyond_a_megabyte_are_those_of_pandas(line_break: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streams, "BLOCK_BYTES", 1_500_000)
    row = 'i{0},"A title,{1}of ""two"" lines {1}",5" x {0}{1}'
    text = HEADER + "".join(row.format(number, line_break) for number in range(60_000))
    path = tmp_path / "items.csv"
    path.write_bytes(text.encode())
    assert read(path) == pandas_rows(text.encode())


def test_a_header_is_the_first_row_that_is_not_blank(tmp_path: Path):
    path = tmp_path / "items.csv"
    path.write_bytes(b'\xef\xbb\xbf\r\n  \r\n"item\r\nid",title\r\na,Apple\r\n')
    file = DelimitedFile(path, ",", typed_header=False)
    assert file.column_names == ["item\r\nid", "title"]
    assert file.read(["title"]).column("title").to_pylist() == ["Apple"]
    assert file.where(0) == f"{path}:5"


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("block", [150, 1 << 24])
def test_messages_name_the_line_behind_quoted_line_breaks(line_break: str, block: int, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(streams, "BLOCK_BYTES", block)
    path = tmp_path / "items.csv"
    lines = ["item,title", *['i,"a', "", 'b"', "  "] * 50, "i,c", "i,d,e"]
    path.write_bytes(line_break.join(lines).encode())
    file = DelimitedFile(path, ",", typed_header=False)
    assert [file.where(row) for row in (0, 1, 50)] == [f"{path}:{line}" for line in (2, 6, 202)]
    with pytest.raises(UserError, match=r"items\.csv:203: .*Expected 2 columns, got 3"):
        read(path)
    path.write_bytes(line_break.join([*lines[:-1], "i,\xff"]).encode("latin-1"))
    with pytest.raises(UserError, match=r"items\.csv:203: byte 0xff is not UTF-8"):
        read(path)


@pytest.mark.parametrize("rest", ['b,"Bread\nc,Cake\n', 'b,"Bread', 'b,"Bread""', 'b,"Bread""\n', 'b,"', '"b\n\n'])
def test_a_quote_that_is_never_closed_is_refused(rest: str, tmp_path: Path):
    path = tmp_path / "items.csv"
    path.write_text('item,title\na,"A\npple"\n' + rest)
    with pytest.raises(UserError, match=r"items\.csv:4: a quote that is never closed"):
        read(path)


def test_a_quote_that_is_not_closed_within_a_block_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streams, "BLOCK_BYTES", 100)
    path = tmp_path / "items.csv"
    path.write_text("item,title\n" + "a,Apple\n" * 20 + 'b,"' + "c,Cake\n" * 20)
    with pytest.raises(UserError, match=r"items\.csv:22: a line of more than 100 bytes; .* quotes that are closed"):
        read(path)


def test_a_row_longer_than_a_megabyte_is_named_by_its_line(tmp_path: Path):
    path = tmp_path / "items.csv"
    path.write_text('item,title\na,"A\npple"\nb,"' + "Bread\n" * 500_000 + '"\n')
    with pytest.raises(UserError, match=r"items\.csv:4: a row of more than 1048576 bytes"):
        read(path)


def test_quotes_of_recboles_files_are_text(tmp_path: Path):
    path = tmp_path / "shop.item"
    path.write_text('item_id:token\ttitle:token_seq\n1\t"Great" and\n2\t"Open\n')
    file = DelimitedFile(path, "\t", typed_header=True)
    assert file.read(["title"]).column("title").to_pylist() == ['"Great" and', '"Open']
