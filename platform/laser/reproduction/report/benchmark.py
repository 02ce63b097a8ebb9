"""The page of a benchmark: our systems beside the published ones, with what each costs, and one figure of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from laser.evaluation.metrics import SELECTION_METRIC, title
from laser.pages.document import Block, Bullets, Code, Grid, Heading, Paragraph, Plot
from laser.records.published import IN_ALL, METRICS, Numbers, Published, quality_and_weights
from laser.tracking.interface import StoredRun

MAIN = ("recall@10", SELECTION_METRIC)
"""What verdicts compare."""


@dataclass(frozen=True)
class Entry:
    """One of our systems on the dataset, under each seed."""

    name: str
    runs: dict[int, StoredRun]
    shown: list[dict[str, float]]
    """Metrics with the history among the candidates, seed by seed."""
    masked: list[dict[str, float]]
    seconds: float
    """To make it once, at the chosen settings, and test it; what was cached took its time when it was made."""
    tries: int
    """Points of the search on validation."""
    parameters: int
    """Weights that training changes."""
    statistics: int
    """Numbers that were counted in the data."""
    tokens: int
    """Tokens that pass through a language model."""
    memory_mib: float | None

    def mean(self, metric: str, masked: bool) -> float:
        """Return the mean over the seeds."""
        return fmean(values[metric] for values in (self.masked if masked else self.shown))


def benchmark_page(
    published: Published, name: str | None, dataset: str, entries: Sequence[Entry], facts: Mapping[str, Any]
) -> list[Block]:
    """Return the page.

    Args:
        published: the benchmark.
        name: the dataset's name in it; None if it has no such dataset.
        dataset: its counts, for the reader.
        entries: our systems.
        facts: command, commit and hardware.
    """
    rows = published.of(name)
    blocks: list[Block] = [
        Heading(published.title, 1),
        Bullets([f"data: {dataset}", *(f"{key}: {value}" for key, value in facts.items() if key != "command")]),
        Code(str(facts["command"])),
        Bullets(verdicts(entries, rows)),
        Heading("Test set, full catalogue"),
        Paragraph(
            "Means over the seeds. Masked: items of the user's history are no candidates. Published rows do not always "
            "say which of the two they are, and stand in the first."
        ),
        _grid(entries, rows, masked=False),
        _grid(entries, rows, masked=True),
        Heading("What each cost"),
        Paragraph(
            "Seconds to make it once at its chosen settings on this machine, with other work beside it; tries on "
            "validation; weights that training changes, and numbers counted in the data; tokens that pass through a "
            "language model; most resident memory, where it was made in this process."
        ),
        _costs(entries),
        Plot(cost_figure(entries, rows), "quality against cost"),
    ]
    if rows:
        blocks += [Heading("Sources"), Bullets([f"{row.name}: {row.source}" for row, _ in rows])]
    return blocks


def verdicts(entries: Sequence[Entry], rows: Numbers) -> list[str]:
    """Return a sentence for each of our systems: which published rows it is above, in both metrics, and which not."""
    sentences = []
    for entry in entries:
        for masked in (False, True):
            not_above = [
                row.name
                for row, numbers in rows
                if any(entry.mean(metric, masked) <= numbers[metric] for metric in MAIN if metric in numbers)
            ]
            values = " / ".join(f"{entry.mean(metric, masked):.4f}" for metric in MAIN)
            history = "masked" if masked else "shown"
            count = f"{len(rows) - len(not_above)} of {len(rows)} published rows"
            sentence = f"{entry.name}, history {history}: {values}, above {count}"
            if not_above:
                sentence += f"; not above {', '.join(not_above)}"
            sentences.append(f"{sentence}.")
    return sentences


def cost_figure(entries: Sequence[Entry], rows: Numbers) -> str:
    """Draw Recall@10 against trained weights: ours (masked) and the published."""
    ours = [(entry.name, float(entry.parameters), entry.mean(IN_ALL, masked=True)) for entry in entries]
    return quality_and_weights(ours, rows, title(IN_ALL))


def as_json(entries: Sequence[Entry], rows: Numbers) -> dict[str, Any]:
    """Return all numbers of the page."""
    ours = {
        entry.name: {
            "runs": {str(seed): run.run_id for seed, run in entry.runs.items()},
            "shown": {metric: entry.mean(metric, False) for metric in METRICS},
            "masked": {metric: entry.mean(metric, True) for metric in METRICS},
            "seconds": entry.seconds,
            "tries": entry.tries,
            "parameters": entry.parameters,
            "statistics": entry.statistics,
            "tokens": entry.tokens,
            "memory_mib": entry.memory_mib,
        }
        for entry in entries
    }
    return {"ours": ours, "published": [{"name": row.name, "source": row.source, **numbers} for row, numbers in rows]}


def _grid(entries: Sequence[Entry], rows: Numbers, masked: bool) -> Grid:
    lines = [(entry.name, {metric: entry.mean(metric, masked) for metric in METRICS}) for entry in entries]
    lines = [(f"**{name}**", numbers) for name, numbers in lines]
    if not masked:
        lines += [(row.name, numbers) for row, numbers in rows]
    lines.sort(key=lambda line: -line[1].get("recall@10", 0.0))
    shown = [[name, *(f"{numbers[m]:.4f}" if m in numbers else "" for m in METRICS)] for name, numbers in lines]
    return Grid(["history masked" if masked else "history shown", *map(title, METRICS)], shown)


def _costs(entries: Sequence[Entry]) -> Grid:
    header = ["system", "seconds", "tries", "trained weights", "counted numbers", "tokens read", "memory (MiB)"]
    lines = []
    for entry in entries:
        memory = f"{entry.memory_mib:,.0f}" if entry.memory_mib is not None else ""
        counts = (entry.tries, entry.parameters, entry.statistics, entry.tokens)
        lines.append([entry.name, f"{entry.seconds:.0f}", *(f"{count:,}" for count in counts), memory])
    return Grid(header, lines)
