"""What others have published on data that we can run: the files of `published/`, read and typed.

A new benchmark is one more file there: `datasets` with their counts, and `rows` with a source and the numbers of each
dataset. Rows are found by the counts, because a folder may have any name.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator

from laser.config.jobs import PUBLISHED
from laser.config.section import Section
from laser.data.dataset import Dataset
from laser.pages.plots import quality_and_cost

METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10", "recall@50", "ndcg@50")
"""What a benchmark shows, ours and the published; a number that a source lacks is left out."""
IN_ALL = "recall@10"
"""The metric that every source has."""


class PublishedRow(Section):
    """One system, as its source prints it."""

    name: str
    source: str
    """Where the numbers stand."""
    parameters: float | None = None
    """How many weights its training changes; None where no source says so."""
    numbers: dict[str, dict[str, float]] = Field(min_length=1)
    """Dataset → metric → value."""


class Published(Section):
    """A benchmark's datasets and published rows."""

    title: str
    datasets: dict[str, dict[str, int]]
    """Dataset → num_users, num_items, num_interactions."""
    rows: tuple[PublishedRow, ...]

    @model_validator(mode="after")
    def _known_names(self) -> "Published":
        for row in self.rows:
            for dataset, numbers in row.numbers.items():
                unknown = [name for name in numbers if name not in METRICS]
                if dataset not in self.datasets or unknown:
                    raise ValueError(f"{row.name}: {dataset}: {unknown or 'no such dataset'}")
        return self

    def dataset_of(self, dataset: Dataset) -> str | None:
        """Return the benchmark's name of a dataset, or None if it has no such one."""
        for name, counts in self.datasets.items():
            if all(getattr(dataset, count) == value for count, value in counts.items()):
                return name
        return None

    def of(self, dataset: str | None) -> "Numbers":
        """Return the rows that have numbers of a dataset, with these."""
        return [(row, row.numbers[dataset]) for row in self.rows if dataset in row.numbers]


Numbers = list[tuple[PublishedRow, dict[str, float]]]
"""Published rows, with their numbers of one dataset."""


def quality_and_weights(ours: Sequence[tuple[str, float, float]], rows: Numbers, y_axis: str) -> str:
    """Draw the metric that every source has against trained weights; of an unknown number of weights, as lines.

    Args:
        ours: name, trained weights and metric of each of our systems.
        rows: the published ones.
        y_axis: says what the metric is, and how the history is ranked.
    """
    theirs = [(row.name, row.parameters, numbers[IN_ALL]) for row, numbers in rows if IN_ALL in numbers]
    points = [(name, weights, value) for name, weights, value in theirs if weights is not None]
    lines = [(name, value) for name, weights, value in theirs if weights is None]
    return quality_and_cost(ours, points, lines, "weights that training changes", y_axis)


def read_published(name: str) -> Published:
    """Read a benchmark's file."""
    content: dict[str, Any] = yaml.safe_load((PUBLISHED / f"{name}.yaml").read_text(encoding="utf-8"))
    fields = {"name", "source", "parameters"}
    rows = [
        {
            **{key: value for key, value in row.items() if key in fields},
            "numbers": {key: value for key, value in row.items() if key not in fields},
        }
        for row in content["rows"]
    ]
    return Published.model_validate({**content, "rows": tuple(rows)})


def published_files() -> list[Path]:
    """Return the files of all benchmarks."""
    return sorted(PUBLISHED.glob("*.yaml"))
