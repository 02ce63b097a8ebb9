"""Which column is the title."""

from pathlib import Path

import pytest

from laser.errors import UserError
from laser.sources.columns import title_column


@pytest.mark.parametrize(
    ("names", "title"),
    [
        ("item subtitle title", "title"),
        ("item original_title title movie_title name", "title"),
        ("item Title", "Title"),
        ("item_id movie_title:token_seq class", "movie_title:token_seq"),
        ("item Book-Title", "Book-Title"),
        ("item movieTitle", "movieTitle"),
        ("item name url", "name"),
        ("item brand_name product_name", "product_name"),
        ("item series_title item_title", "item_title"),
        ("item subtitle original_title", "title"),  # there is none, and the message asks for it
        ("item brand_name user_name", "title"),
    ],
)
def test_the_title_is_found_by_its_name(names: str, title: str):
    names = [name.partition(":")[0] for name in names.split()]
    assert title_column(names, "item", Path("items.csv")) == title.partition(":")[0]


def test_the_id_says_what_the_thing_is():
    assert title_column(["artist_id", "label_name", "artist_name"], "artist_id", Path("x.item")) == "artist_name"


@pytest.mark.parametrize("names", [["name", "series_title"], ["author_title", "item_name"]])
def test_two_titles_are_not_guessed(names: list[str]):
    first, second = map(repr, names)
    with pytest.raises(UserError, match=f"x.item:1: {first} and {second} may each be the title; choose by data.title"):
        title_column(names, "item", Path("x.item"))
