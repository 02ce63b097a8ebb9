"""A document in its two forms."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
from jinja2 import UndefinedError

from laser.pages.document import (
    Bullets,
    Code,
    Grid,
    Heading,
    Paragraph,
    Plot,
    Warnings,
    as_html,
    as_markdown,
)

HOSTILE = "<script>alert('&')</script>"
BLOCKS = [
    Heading(HOSTILE, 1),
    Paragraph(HOSTILE),
    Warnings([HOSTILE, "second"]),
    Bullets([HOSTILE]),
    Code(f"a=1\n{HOSTILE}"),
    Grid(["", HOSTILE], [["row", HOSTILE]]),
    Plot("<svg><g></g></svg>", HOSTILE),
]


def test_the_page_escapes_all_text_and_no_drawing():
    page = as_html(HOSTILE, BLOCKS)
    assert page.startswith("<!DOCTYPE html>") and page.endswith("</html>\n")
    assert "<script" not in page and page.count("&lt;script&gt;") == 9
    assert "<svg><g></g></svg>" in page and "http" not in page
    assert "<pre><code>a=1\n&lt;script" in page, "code keeps its lines"


def test_every_block_is_in_both_forms():
    assert as_markdown([Heading("H", 3), Bullets(["a", "b"]), Code("x\ny"), Plot("<svg></svg>", "c")]) == (
        "### H\n\n- a\n- b\n\n    x\n    y\n\n*Drawn in the HTML report: c.*\n"
    )
    page = as_html("t", [Heading("H", 3), Grid(["", "n"], [["row", "1"], ["other", "2"]])])
    assert "<h3>H</h3>" in page
    assert "<tr><td>row</td><td>1</td></tr>\n<tr><td>other</td><td>2</td></tr>" in page


def test_a_block_that_the_template_does_not_know_is_an_error():
    @dataclass(frozen=True)
    class Film:
        kind: ClassVar[str] = "film"

        def markdown(self) -> str:
            return ""

    with pytest.raises(UndefinedError, match="film"):
        as_html("t", [Film()])
