"""A report as a list of blocks, and its two forms: Markdown, and one HTML page that needs nothing else."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Protocol

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .7rem; text-align: right; vertical-align: top; }
th { border-bottom: 2px solid #888; }
th:first-child, td:first-child { text-align: left; }
.warning { background: #fff4d6; border-left: 4px solid #d90; padding: .4rem 1rem; margin: .4rem 0; }
figure { margin: 1rem 0; }
figcaption { font-size: .9rem; color: #555; }
svg { max-width: 100%; height: auto; }
code, pre { font-size: .85rem; background: #f4f4f4; padding: .1rem .3rem; overflow-x: auto; }
"""


class Block(Protocol):
    """A part of a document."""

    def markdown(self) -> str: ...
    def html(self) -> str: ...


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2

    def markdown(self) -> str:
        return f"{'#' * self.level} {self.text}"

    def html(self) -> str:
        return f"<h{self.level}>{escape(self.text)}</h{self.level}>"


@dataclass(frozen=True)
class Paragraph:
    text: str

    def markdown(self) -> str:
        return self.text

    def html(self) -> str:
        return f"<p>{escape(self.text)}</p>"


@dataclass(frozen=True)
class Warnings:
    """Where a reader must not compare without a second thought."""

    items: Sequence[str]

    def markdown(self) -> str:
        return "\n>\n".join(f"> **Not the paper's:** {item}" for item in self.items)

    def html(self) -> str:
        return "\n".join(f'<p class="warning"><b>Not the paper\'s:</b> {escape(item)}</p>' for item in self.items)


@dataclass(frozen=True)
class Bullets:
    items: Sequence[str]

    def markdown(self) -> str:
        return "\n".join(f"- {item}" for item in self.items)

    def html(self) -> str:
        return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in self.items) + "</ul>"


@dataclass(frozen=True)
class Code:
    text: str

    def markdown(self) -> str:
        return "\n".join(f"    {line}" for line in self.text.splitlines())

    def html(self) -> str:
        return f"<pre><code>{escape(self.text)}</code></pre>"


@dataclass(frozen=True)
class Grid:
    """A table; the first column is text, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        return markdown_table(self.header, self.rows)

    def html(self) -> str:
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self.header)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in self.rows)
        return f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>"


@dataclass(frozen=True)
class Plot:
    """A drawing; Markdown has its caption alone."""

    svg: str
    caption: str

    def markdown(self) -> str:
        return f"*Drawn in the HTML report: {self.caption}.*"

    def html(self) -> str:
        return f"<figure>{self.svg}<figcaption>{escape(self.caption)}</figcaption></figure>"


def as_markdown(blocks: Iterable[Block]) -> str:
    """The document in Markdown, with tables and without drawings."""
    return "\n\n".join(block.markdown() for block in blocks) + "\n"


def as_html(title: str, blocks: Iterable[Block]) -> str:
    """The document as one page: no script, no style sheet, font or picture from elsewhere."""
    body = "\n".join(block.html() for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, for readers of the file itself too."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [cells[0], rule, *cells[1:]]
    return "\n".join(
        "| " + " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |" for line in lines
    )
