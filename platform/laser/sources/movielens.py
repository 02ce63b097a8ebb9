"""MovieLens as GroupLens publishes it: `ratings` and `movies`, as .csv or .dat, or `u.data` and `u.item` (100K).

The .csv files may be gzipped. The others have no header; `::`, a tab or `|` stands between columns, and text is UTF-8
or Latin-1. They get the names of the .csv files: userId, movieId, rating, timestamp; title, genres. Further columns of
`u.item` are not read.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from laser.config.schema import DataConfig
from laser.ingest.interactions import Workspace
from laser.ingest.tables import DelimitedFile, Kinds
from laser.sources.base import RawData, readable
from laser.sources.tabular import read_tables

FILES = "ratings.csv and movies.csv (or .dat, or u.data and u.item)"
FORMS = (
    ("ratings.csv", "movies.csv"), ("ratings.csv.gz", "movies.csv.gz"), ("ratings.dat", "movies.dat"),
    ("u.data", "u.item"),
)  # fmt: skip
PATTERNS = tuple(name for form in FORMS for name in form)
RATINGS = ("userId", "movieId", "rating", "timestamp")
MOVIES = ("movieId", "title", "genres")
GENRES = tuple(
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror Musical "
    "Mystery Romance Sci-Fi Thriller War Western".split()
)
"""The flags of `u.item`, in their order."""


class HeadlessFile(DelimitedFile):
    """A file without header, in UTF-8 or Latin-1. `::` between its columns becomes a character that no text has."""

    def __init__(self, path: Path, delimiter: str, names: tuple[str, ...]) -> None:
        self._between = delimiter.encode()
        super().__init__(path, delimiter if len(delimiter) == 1 else "\x1f", typed_header=False, names=names)

    def _decoded(self, block: bytes) -> bytes:
        try:
            block.decode("utf-8")
        except UnicodeDecodeError:
            block = block.decode("latin-1").encode()
        return block if len(self._between) == 1 else block.replace(self._between, b"\x1f")


class FlaggedItems(HeadlessFile):
    """`u.item`: a film's genres are 19 columns of 0 and 1."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "|", ("movieId", "title", "released", "video", "url", *GENRES))
        self.column_names = list(MOVIES)

    def batches(self, kinds: Kinds) -> Iterator[pa.Table]:
        for table in super().batches(dict.fromkeys(("movieId", "title", *GENRES), "text")):
            named = [pc.if_else(pc.equal(table[genre], "1"), f"{genre}|", "") for genre in GENRES]
            genres = pc.utf8_rtrim(pc.binary_join_element_wise(*named, ""), characters="|")
            yield table.append_column("genres", genres).select(list(kinds))


def recognises(names: set[str]) -> bool:
    """Whether a folder with files of these names has this layout."""
    return any(set(form) <= names for form in FORMS)


def read(directory: Path, config: DataConfig, workspace: Workspace) -> RawData:
    """Read ratings and films, in the first form that the folder holds whole."""
    there = {path.name for path in directory.iterdir()}
    form = next((form for form in FORMS if set(form) <= there), FORMS[0])
    ratings, movies = (readable(directory / name) for name in form)
    files: tuple[DelimitedFile, DelimitedFile]
    if ".csv" in ratings.suffixes:
        files = DelimitedFile(ratings, None, typed_header=False), DelimitedFile(movies, None, typed_header=False)
    elif ratings.suffix == ".dat":
        files = HeadlessFile(ratings, "::", RATINGS), HeadlessFile(movies, "::", MOVIES)
    else:
        files = HeadlessFile(ratings, "\t", RATINGS), FlaggedItems(movies)
    raw = read_tables(directory, config, workspace, *files, "userId", "movieId")
    if "genres" not in raw.items.column_names:
        return raw
    genres = pc.replace_substring(raw.items["genres"], "|", ", ")
    genres = pc.if_else(pc.equal(genres, "(no genres listed)"), "", genres)
    place = raw.items.column_names.index("genres")
    return replace(raw, items=raw.items.set_column(place, "genres", genres))
