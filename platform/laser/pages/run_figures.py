"""The figures of one run: its course over the epochs, the load of its experts, and the ranks of the test users."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from laser.evaluation.metrics import SELECTION_METRIC, title
from laser.evaluation.user_ranks import TEST_RANKS, read_ranks

LOAD = "expert_load/"
"""Metrics of an epoch: the share of the training histories that each expert handled."""

Rows = Sequence[Mapping[str, float]]
"""The metrics and `epoch` of each epoch."""


def run_figures(history: Rows, ranks: Path | None = None, selection: Path | None = None) -> dict[str, str]:
    """Draw what a run's page shows: name → SVG, to stand inside a page. What the run does not have is left out.

    Args:
        history: of the run, from epoch 0 on, the untrained model.
        ranks: folder with the ranks of the test users.
        selection: folder with the training users that were chosen by scores.
    """
    from laser.pages.plots import cumulative, histograms, shares, two_courses  # matplotlib takes a second to import

    figures = {}
    loss = [(row["epoch"], row["loss"]) for row in history if "loss" in row]
    quality = [(row["epoch"], row[f"val/{SELECTION_METRIC}"]) for row in history if f"val/{SELECTION_METRIC}" in row]
    if len(quality) > 1:
        axes = ("epoch", "training loss", f"validation {title(SELECTION_METRIC)}")
        figures["curves"] = two_courses(loss, quality, axes)
    load = expert_load(history)
    if len(load) > 1:
        epochs = [row["epoch"] for row in history if f"{LOAD}0" in row]
        figures["expert-load"] = shares(load, epochs, "epoch", "share of the training histories")
    file = None if ranks is None else ranks / TEST_RANKS.name
    if file is not None and file.is_file():
        users = read_ranks(file)
        kinds = {"all items are candidates": users.ranks, "without the user's own history": users.masked}
        figures["ranks"] = cumulative(kinds, "rank of the item that came next", "share of the test users")
    if selection is not None:
        (file,) = selection.glob("*.parquet")
        table = pq.read_table(file, columns=["score", "chosen"])
        scores = {"all users": table.column("score"), "chosen": table.filter(table.column("chosen")).column("score")}
        numbers = {name: column.to_numpy() for name, column in scores.items()}
        figures["selection"] = histograms(numbers, "score of a training user", "users")
    return figures


def expert_load(history: Rows) -> dict[str, list[float | None]]:
    """Share of the training histories that each expert handled, epoch by epoch."""
    rows = [row for row in history if f"{LOAD}0" in row]
    number = sum(name.startswith(LOAD) for name in rows[0]) if rows else 0
    return {f"expert {expert}": [row.get(f"{LOAD}{expert}", 0.0) for row in rows] for expert in range(number)}
