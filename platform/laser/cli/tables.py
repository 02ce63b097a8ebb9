"""The one form of a table, for a terminal, a page and MLflow's notes: Markdown with aligned columns."""

from collections.abc import Container, Sequence


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], text: Container[int] = (0,)) -> str:
    """Write a table whose columns are also aligned for readers of the file itself.

    Args:
        header: the name of each column.
        rows: a cell for each column.
        text: numbers of the columns that hold text and align to the left; the others hold numbers.
    """
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    left = [column in text for column in range(len(header))]
    rule = ["-" * width if is_text else "-" * (width - 1) + ":" for width, is_text in zip(widths, left, strict=True)]
    return "\n".join(_line(row, widths, left) for row in (cells[0], rule, *cells[1:]))


def _line(row: Sequence[str], widths: Sequence[int], left: Sequence[bool]) -> str:
    cells = [
        cell.ljust(width) if is_text else cell.rjust(width)
        for cell, width, is_text in zip(row, widths, left, strict=True)
    ]
    return "| " + " | ".join(cells) + " |"
