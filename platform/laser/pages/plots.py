"""Drawings by matplotlib, as SVG that stands inside a page or is a file: text stays text, nothing is fetched."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

COLOURS = ("#8da0cb", "#fc8d62", "#66c2a5", "#e78ac3", "#a6d854", "#b3b3b3", "#e5c494", "#ffd92f")
BEST = "#d62728"
"""Colour of what is best."""
WIDTH = 4.5
"""Inches. A phone of 390 pixels shows it whole, at five sixths, where its words can still be read."""
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "laser",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

Series = Mapping[str, Sequence[float | None]]


def bars(labels: Sequence[str], series: Series, errors: Series, axis: str) -> str:
    """Horizontal bars, one group a label, one bar of it a series; what is None is left out.

    Args:
        labels: of the groups, from top to bottom.
        series: name → a value for each label.
        errors: name → half the length of the whisker, or None.
        axis: what the values are.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.6 + 0.45 * len(labels)), layout="constrained")
        axes = figure.add_subplot()
        height = 0.8 / len(series)
        for number, (name, values) in enumerate(series.items()):
            shown = [(row, value) for row, value in enumerate(values) if value is not None]
            whiskers = [errors.get(name, [None] * len(labels))[row] or 0.0 for row, _ in shown]
            axes.barh(
                [row + (number - (len(series) - 1) / 2) * height for row, _ in shown],
                [value for _, value in shown],
                height,
                xerr=whiskers if any(whiskers) else None,
                label=name,
                color=COLOURS[number % len(COLOURS)],
            )
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.axvline(0, color="#888", linewidth=0.8)
        axes.set_xlabel(axis)
        if len(series) > 1:
            axes.legend(frameon=False)
        return _svg(figure)


def lines(series: Mapping[str, Sequence[tuple[float, float]]], x_axis: str, y_axis: str) -> str:
    """One line a series through its points (x, y); a single point is a horizontal line across."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
        axes = figure.add_subplot()
        for number, (name, points) in enumerate(series.items()):
            colour = COLOURS[number % len(COLOURS)]
            if len(points) == 1:
                axes.axhline(points[0][1], label=name, color=colour, linestyle="--")
            else:
                axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name, color=colour)
        axes.set_xlabel(x_axis)
        axes.set_ylabel(y_axis)
        axes.set_ylim(bottom=0)
        if all(float(x).is_integer() for points in series.values() for x, _ in points):
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, fontsize=8)
        return _svg(figure)


def histograms(groups: Mapping[str, NDArray[np.float64]], x_axis: str, y_axis: str) -> str:
    """One histogram a group, over the same 50 parts of the range, on a logarithmic axis that begins at 0."""
    edges = np.histogram_bin_edges(np.concatenate(list(groups.values())), 50)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
        axes = figure.add_subplot()
        for number, (name, values) in enumerate(groups.items()):
            axes.hist(values, edges, label=name, color=COLOURS[number])
        axes.set_yscale("symlog", linthresh=1)
        axes.set_xlabel(x_axis)
        axes.set_ylabel(y_axis)
        axes.legend(frameon=False)
        return _svg(figure)


def boxes(groups: Mapping[str, Sequence[float]], axis: str) -> str:
    """A box for each group: quartiles and median, whiskers at the 5th and 95th percentile."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.8 + 0.35 * len(groups)), layout="constrained")
        axes = figure.add_subplot()
        axes.boxplot(
            list(groups.values()), orientation="horizontal", whis=(5, 95), showfliers=False, tick_labels=list(groups)
        )
        axes.invert_yaxis()
        axes.set_xlabel(axis)
        return _svg(figure)


def heat_map(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]], axes: tuple[str, str, str]
) -> str:
    """A field for each row and column, with its value; the highest one has a frame.

    Args:
        rows: labels, from top to bottom.
        columns: labels, from left to right.
        values: of each row; None where there is none.
        axes: what rows, columns and values are.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(2.7, 1.2 + 0.65 * len(columns)), 1.1 + 0.45 * len(rows)), layout="constrained")
        field = figure.add_subplot()
        known = [[float("nan") if value is None else value for value in row] for row in values]
        image = field.imshow(known, cmap="Blues", aspect="auto")
        fields = [(value, -row, -column) for row, of_row in enumerate(values) for column, value in _known(of_row)]
        _, up, left = max(fields)  # the first of equals, as the order of the trials has it
        low, high = image.get_clim()
        for row, of_row in enumerate(values):
            for column, value in _known(of_row):
                colour = "white" if value > (low + high) / 2 else "#222"
                field.text(column, row, f"{value:.4f}", ha="center", va="center", color=colour)
        corner = (-left - 0.5, -up - 0.5)
        field.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=BEST, linewidth=3, gid="best"))
        field.set_yticks(range(len(rows)), rows)
        field.set_xticks(range(len(columns)), columns)
        field.spines[:].set_visible(False)
        field.set_ylabel(axes[0])
        field.set_xlabel(axes[1])
        field.set_title(f"{axes[2]}; best framed", fontsize=9)
        return _svg(figure)


def points(labelled: Sequence[tuple[str, float, float]], best: int, x_axis: str, y_axis: str) -> str:
    """A point (label, x, y) each, with its label beside it; the best one has another colour."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3), layout="constrained")
        axes = figure.add_subplot()
        for number, (label, x, y) in enumerate(labelled):
            _labelled_point(axes, label, (x, y), BEST if number == best else COLOURS[0], 8)
        axes.margins(x=0.12, y=0.1)
        axes.set_xlabel(x_axis)
        axes.set_ylabel(y_axis)
        return _svg(figure)


def _labelled_point(axes: Axes, label: str, place: tuple[float, float], colour: str, fontsize: int) -> None:
    axes.scatter([place[0]], [place[1]], color=colour, s=30)
    axes.annotate(label, place, xytext=(5, 4), textcoords="offset points", fontsize=fontsize)


def quality_and_cost(
    ours: Sequence[tuple[str, float, float]],
    theirs: Sequence[tuple[str, float, float]],
    levels: Sequence[tuple[str, float]],
    x_axis: str,
    y_axis: str,
) -> str:
    """Points (label, cost, quality) on a logarithmic axis that begins at 0, ours and theirs.

    Args:
        ours: in one colour.
        theirs: in another.
        levels: label and quality of systems whose cost is not known: a line across the drawing.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xscale("symlog", linthresh=1e4)
        for label, y in levels:
            axes.axhline(y, color="#ccc", linewidth=0.8, zorder=0)
            axes.annotate(label, (1.0, y), xycoords=("axes fraction", "data"), fontsize=6, ha="right", va="bottom")
        for colour, group in ((BEST, ours), (COLOURS[0], theirs)):
            for label, x, y in group:
                _labelled_point(axes, label, (x, y), colour, 7)
        axes.margins(x=0.12, y=0.1)
        axes.set_xlabel(x_axis)
        axes.set_ylabel(y_axis)
        return _svg(figure)


def two_courses(
    upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], names: tuple[str, str, str]
) -> str:
    """Two courses over the same axis, one above the other; the highest point of the lower one is marked.

    Args:
        upper: points (x, y) of the upper course; without any, the lower one stands alone.
        lower: points of the lower course.
        names: of the axis, of the upper and of the lower course.
    """
    with matplotlib.rc_context(STYLE):
        shown = [(course, name) for course, name in ((upper, names[1]), (lower, names[2])) if course]
        figure = Figure(figsize=(WIDTH, 0.6 + 1.9 * len(shown)), layout="constrained")
        fields = figure.subplots(len(shown), sharex=True, squeeze=False)[:, 0]
        for number, (axes, (course, name)) in enumerate(zip(fields, shown, strict=True)):
            axes.plot([x for x, _ in course], [y for _, y in course], marker="o", color=COLOURS[number])
            axes.set_ylabel(name)
            axes.xaxis.get_major_locator().set_params(integer=True)
        if lower:
            x, y = max(lower, key=lambda point: point[1])
            fields[-1].scatter([x], [y], color=BEST, zorder=3)
            fields[-1].annotate(f"best: {y:.4f}", (x, y), xytext=(0, 6), textcoords="offset points", ha="center")
            fields[-1].margins(y=0.2)
        fields[-1].set_xlabel(names[0])
        return _svg(figure)


def shares(series: Series, x_values: Sequence[float], x_axis: str, y_axis: str) -> str:
    """Shares that add up to one, piled up over an axis: one layer a series."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
        axes = figure.add_subplot()
        colours = [COLOURS[number % len(COLOURS)] for number in range(len(series))]
        if len(x_values) > 1:
            axes.stackplot(x_values, list(series.values()), labels=list(series), colors=colours, alpha=0.9)
        else:
            below = 0.0
            for (name, (share, *_)), colour in zip(series.items(), colours, strict=True):
                axes.bar(x_values, [share], bottom=below, width=0.4, label=name, color=colour)
                below += share or 0.0
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(0, 1)
        axes.set_xlabel(x_axis)
        axes.set_ylabel(y_axis)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        return _svg(figure)


def cumulative(series: Mapping[str, NDArray[Any]], x_axis: str, y_axis: str) -> str:
    """For each series, the share of its values up to x, over a logarithmic axis."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
        axes = figure.add_subplot()
        for number, (name, values) in enumerate(series.items()):
            at, counts = np.unique(values, return_counts=True)
            axes.step(at, counts.cumsum() / len(values), where="post", label=name, color=COLOURS[number])
        axes.axvline(10, color="#888", linewidth=0.8, linestyle="--")
        axes.set_xscale("log")
        axes.set_ylim(0, 1)
        axes.set_xlabel(x_axis)
        axes.set_ylabel(y_axis)
        axes.legend(frameon=False)
        return _svg(figure)


def as_file(svg: str) -> str:
    """The drawing as a file of its own."""
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return svg.replace("<svg", f"<svg {spaces}", 1)


def _known(values: Sequence[float | None]) -> list[tuple[int, float]]:
    return [(number, value) for number, value in enumerate(values) if value is not None]


def _svg(figure: Figure) -> str:
    """The drawing as an element of a page: without the declarations of a file of its own, which name web addresses."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
