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

WHOLE = r"^\d{1,18}(\.0+)?$"
NO_TITLE = ("sub", "original", "alternative", "alternate", "alt", "short", "other", "old")
"""What stands before `title` in names of columns that hold something beside the title."""
INDEX = re.compile(r"|Unnamed: \d+.*|__index_level_\d+__")
"""Names that pandas gives to the index of a table that it writes or reads; R gives the empty one."""
INDEX_NAMES = tuple("idx index level0 row rowid rowidx rowindex rowname rownames rownum rownumber rn".split())
"""Names of columns that are an index where they grow from row to row, from any number and in any steps."""
COUNTER = (
    *INDEX_NAMES,
    *"1 c0 column0 counter id n no nr num number obs recno seq serial serialno slno sno v1 x".split(),
)
"""Names of columns that are an index where they count the rows, as pandas, R, SAS, Spark and people call it."""


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
    ]
    named = [name for name in names if plain[name] in [f"{thing}name" for thing in things]]
    if "name" not in plain.values():
        ways[-1] += named  # of `author_title` and `item_name`, either may be it
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
    """Whether a column is an index: it has the name of one and counts the rows, from 0 or 1.

    Under a name that nothing else has, it may leave numbers out, as that of a table that was filtered.
    """
    plain = _plain(name)
    if plain not in ("", *COUNTER) or not pc.all(pc.match_substring_regex(texts, WHOLE)).as_py():  # "" is of #
        return False
    numbers = pc.replace_substring_regex(texts, r"\.0+$", "").cast(pa.int64()).to_numpy()
    steps = np.diff(numbers)
    return bool((steps > 0).all() if plain in INDEX_NAMES else (steps == 1).all() and numbers[0] in (0, 1))
