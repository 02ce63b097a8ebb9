"""What columns mean, by their names: which one is the id, which the title, and which are no attributes.

A name is compared without case, blanks and underscores. Where two columns may be meant equally well, none is guessed.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from laser.errors import UserError

NO_TITLE = ("sub", "original", "alternative", "alternate", "alt", "short", "other", "old")
"""What stands before `title` in names of columns that hold something beside the title."""
INDEX = re.compile(r"|Unnamed: \d+.*|__index_level_\d+__")
"""Names that pandas gives to the index of a table that it writes or reads; R gives the empty one."""
COUNTER = tuple("index level0 id no nr number row rowid rowname rownames rownum rownumber rn x 1 c0 column0 v1".split())
"""Names of columns that are an index where they count the rows, as pandas, R, Spark and people call it."""


def first_of(names: Iterable[str], *wanted: str) -> str:
    """Return the first of the wanted columns that there is, else the first of them."""
    return next((name for name in wanted if name in names), wanted[0])


def title_column(names: list[str], item_column: str, where: Path) -> str:
    """Return the column of titles: `title`, else one that says so, such as `movie_title`, else one of names.

    Args:
        names: the columns of the items.
        item_column: the item's id; beside `book_id`, `book_title` or `book_name` is the title.
        where: the file, for messages.

    Raises:
        UserError: two columns may be the title.
    """
    plain = {name: _plain(name) for name in names}
    things = (_plain(item_column).removesuffix("id"), "item", "product")
    ways = [
        [name for name in names if name == "title"],
        [name for name in names if plain[name] == "title"],
        [name for name in names if plain[name] in [f"{thing}title" for thing in things]],
        [name for name in names if plain[name] == "name" or _says_title(plain[name])],
        [name for name in names if plain[name] in [f"{thing}name" for thing in things]],
    ]
    found = next((way for way in ways if way), ["title"])
    if len(set(found)) > 1:
        both = " and ".join(map(repr, found))
        raise UserError(f"{where}:1: {both} may each be the title; choose by data.title_column")
    return found[0]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _says_title(plain: str) -> bool:
    return plain.endswith("title") and not plain.removesuffix("title").endswith(NO_TITLE)


def without_index(names: Iterable[str]) -> list[str]:
    """Return the columns that are no index by their name."""
    return [name for name in names if not INDEX.fullmatch(name)]


def is_counter(name: str, texts: pa.ChunkedArray) -> bool:
    """Whether a column is an index: it has the name of one and counts the rows, from 0 or 1."""
    if _plain(name) not in ("", *COUNTER):  # "" is of #
        return False
    rows = np.arange(len(texts))
    return any(pc.all(pc.equal(texts, pa.array(rows + first).cast(pa.string()))).as_py() for first in (0, 1))
