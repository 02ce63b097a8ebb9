"""A report as a list of blocks, and its two forms: Markdown, and one HTML page that needs nothing else."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from laser.cli.tables import markdown_table

TEMPLATE = "page.html"
"""The page, beside this file: a macro for each kind of block. It escapes all text but drawings."""


class Block(Protocol):
    """A part of a document; its kind names the macro of the template that writes it."""

    kind: ClassVar[str]

    def markdown(self) -> str: ...


@dataclass(frozen=True)
class Heading:
    kind: ClassVar[str] = "heading"
    text: str
    level: int = 2

    def markdown(self) -> str:
        return f"{'#' * self.level} {self.text}"


@dataclass(frozen=True)
class Paragraph:
    kind: ClassVar[str] = "paragraph"
    text: str

    def markdown(self) -> str:
        return self.text


@dataclass(frozen=True)
class Warnings:
    """Where a reader must not compare without a second thought."""

    kind: ClassVar[str] = "warnings"
    items: Sequence[str]

    def markdown(self) -> str:
        return "\n>\n".join(f"> **Not the paper's:** {item}" for item in self.items)


@dataclass(frozen=True)
class Bullets:
    kind: ClassVar[str] = "bullets"
    items: Sequence[str]

    def markdown(self) -> str:
        return "\n".join(f"- {item}" for item in self.items)


@dataclass(frozen=True)
class Code:
    kind: ClassVar[str] = "code"
    text: str

    def markdown(self) -> str:
        return "\n".join(f"    {line}" for line in self.text.splitlines())


@dataclass(frozen=True)
class Grid:
    """A table; the first column is text, the others numbers."""

    kind: ClassVar[str] = "grid"
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        return markdown_table(self.header, self.rows)


@dataclass(frozen=True)
class Plot:
    """A drawing; Markdown has its caption alone."""

    kind: ClassVar[str] = "plot"
    svg: str
    caption: str

    def markdown(self) -> str:
        return f"*Drawn in the HTML report: {self.caption}.*"


def as_markdown(blocks: Iterable[Block]) -> str:
    """The document in Markdown, with tables and without drawings."""
    return "\n\n".join(block.markdown() for block in blocks) + "\n"


def as_html(title: str, blocks: Iterable[Block]) -> str:
    """The document as one page: no script, no style sheet, font or picture from elsewhere."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(TEMPLATE).render(title=title, blocks=list(blocks))
