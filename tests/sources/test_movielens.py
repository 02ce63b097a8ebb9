"""MovieLens' own files: their three forms are one dataset."""

import gzip
from pathlib import Path

import pytest

from laser.config.schema import DataConfig
from laser.errors import UserError
from laser.sources.movielens import GENRES
from laser.sources.prepare import prepare_dataset

RATINGS = [(1, 10, 5, 3), (1, 20, 4, 1), (1, 30, 1, 2), (1, 10, 3, 4), (2, 20, 2, 9)]
MOVIES = [(10, "Cité des enfants, La (1995)", ["Adventure", "Sci-Fi"]), (20, '"Great" Cats', ["Comedy"]), (30, "X", [])]


def csv(folder: Path) -> None:
    rows = "".join(f"{','.join(map(str, row))}\n" for row in RATINGS)
    (folder / "ratings.csv").write_text(f"userId,movieId,rating,timestamp\n{rows}")
    quoted = [(movie, title.replace('"', '""'), "|".join(genres)) for movie, title, genres in MOVIES]
    rows = "".join(f'{movie},"{title}",{genres or "(no genres listed)"}\n' for movie, title, genres in quoted)
    (folder / "movies.csv").write_text(f"movieId,title,genres\n{rows}")
    (folder / "links.csv").write_text("movieId,imdbId\n10,7\n")


def gzipped(folder: Path) -> None:
    csv(folder)
    for name in ("ratings.csv", "movies.csv"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()


def dat(folder: Path, encoding: str = "latin-1") -> None:
    (folder / "ratings.dat").write_text("".join(f"{'::'.join(map(str, row))}\n" for row in RATINGS))
    rows = "".join(f"{movie}::{title}::{'|'.join(genres)}\n" for movie, title, genres in MOVIES)
    (folder / "movies.dat").write_text(rows, encoding=encoding)


def dat_of_10m(folder: Path) -> None:
    dat(folder, "utf-8")


def hundred_thousand(folder: Path) -> None:
    (folder / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in RATINGS))
    flags = [[str(int(genre in genres)) for genre in GENRES] for _, _, genres in MOVIES]
    rows = [
        f"{movie}|{title}|01-Jan-1995||http://x|{'|'.join(flags[row])}\n"
        for row, (movie, title, _) in enumerate(MOVIES)
    ]
    (folder / "u.item").write_text("".join(rows), encoding="latin-1")
    (folder / "u1.base").write_text("1\t10\t5\t3\n")


def test_all_forms_are_the_same_dataset(tmp_path: Path):
    fingerprints = set()
    for write in (csv, gzipped, dat, dat_of_10m, hundred_thousand):
        folder = tmp_path / write.__name__
        folder.mkdir()
        write(folder)
        dataset = prepare_dataset(DataConfig(path=str(folder), min_rating=2.0), tmp_path / "cache")
        fingerprints.add(dataset.fingerprint)
    assert len(fingerprints) == 1
    assert (dataset.num_users, dataset.num_interactions) == (2, 4)
    items = sorted(dataset.items.drop_columns(["item_id"]).to_pylist(), key=lambda row: row["raw_id"])
    assert [list(row.values()) for row in items] == [
        ["10", MOVIES[0][1], "Adventure, Sci-Fi"],
        ["20", MOVIES[1][1], "Comedy"],
    ]


def test_a_broken_row_is_named_by_its_line(tmp_path: Path):
    dat(tmp_path)
    (tmp_path / "ratings.dat").write_text("1::10::5::3\n1::20::4\n")
    with pytest.raises(UserError, match=r"ratings\.dat:2: .*; fix the row"):
        prepare_dataset(DataConfig(path=str(tmp_path)), tmp_path / "cache")
    (tmp_path / "ratings.dat").write_text("1::10::5::3\n1::20::4::soon\n")
    with pytest.raises(UserError, match=r"ratings\.dat:2: timestamp 'soon'"):
        prepare_dataset(DataConfig(path=str(tmp_path)), tmp_path / "cache")
