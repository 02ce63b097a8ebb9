"""The report's drawings, by matplotlib, as SVG that stands inside a page: text stays text, nothing is fetched."""

import io
import re
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

COLOURS = ("#8da0cb", "#fc8d62", "#66c2a5", "#e78ac3", "#a6d854", "#b3b3b3", "#e5c494", "#ffd92f")
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "laser", "font.size": 9, "axes.spines.top": False}

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
        figure = Figure(figsize=(8, 0.6 + 0.45 * len(labels)), layout="constrained")
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
        figure = Figure(figsize=(8, 3.5), layout="constrained")
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
        axes.legend(frameon=False, fontsize=8)
        return _svg(figure)


def boxes(groups: Mapping[str, Sequence[float]], axis: str) -> str:
    """A box for each group: quartiles and median, whiskers at the 5th and 95th percentile."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 0.8 + 0.35 * len(groups)), layout="constrained")
        axes = figure.add_subplot()
        axes.boxplot(
            list(groups.values()), orientation="horizontal", whis=(5, 95), showfliers=False, tick_labels=list(groups)
        )
        axes.invert_yaxis()
        axes.set_xlabel(axis)
        return _svg(figure)


def _svg(figure: Figure) -> str:
    """The drawing as an element of a page: without the declarations of a file of its own, which name web addresses."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
