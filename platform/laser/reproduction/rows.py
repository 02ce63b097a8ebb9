"""The arithmetic of a report: means and spread over seeds, and differences of a row from its reference row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from statistics import fmean, stdev

from scipy.stats import t

from laser.evaluation.metrics import SELECTION_METRIC

UNCLEAR = "unclear"
COSTS = ("trainable_parameters", "train_seconds", "peak_mib", "loss/contrastive")
"""Figures of a run: numbers that steps change; of the last epoch its seconds, most resident memory and mean loss."""


@dataclass(frozen=True)
class Measured:
    """One row of a report."""

    id: str
    name: str
    reference: str | None
    """Id of the row that it is compared with."""
    paper: Mapping[str, float]
    """Metric → the paper's number; empty where it has none."""
    ours: Mapping[int, Mapping[str, float]]
    """Seed → metric → value; empty where there is no run."""
    runs: Mapping[int, str] = field(default_factory=dict)
    """Seed → MLflow run id."""
    paper_difference: float | None = None
    """Difference from the reference row in percent, where the paper gives this in place of numbers."""
    x: float | None = None
    """Its place on a figure's axis."""
    seconds: float | None = None
    """Training time of a run, the mean over the seeds."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """Figure of what it costs → the mean over the seeds: `COSTS`."""

    def values(self, metric: str) -> list[float]:
        """One value for each seed that has it, by seed."""
        return [self.ours[seed][metric] for seed in sorted(self.ours) if metric in self.ours[seed]]

    def mean(self, metric: str) -> float | None:
        values = self.values(metric)
        return fmean(values) if values else None

    def spread(self, metric: str) -> float | None:
        """Sample standard deviation over the seeds; None for fewer than two."""
        values = self.values(metric)
        return stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Difference:
    """A row beside its reference row, in percent of the reference: the paper's two numbers, and ours."""

    paper: float | None
    ours: float | None
    error: float | None
    """Standard error of ours over the seeds that both rows have; None for fewer than two."""
    num_seeds: int

    @property
    def verdict(self) -> str:
        """Whether ours goes the paper's way; `unclear` where its 95 % interval over the seeds, Student's t, holds zero.

        Of three seeds that interval is 4.3 standard errors to either side. A single seed has none, and is named.
        """
        if self.ours is None:
            return ""
        if self.error is not None and abs(self.ours) <= float(t.ppf(0.975, self.num_seeds - 1)) * self.error:
            return UNCLEAR
        single = " (one seed)" if self.num_seeds == 1 else ""
        if self.paper is None:
            return ("better" if self.ours > 0 else "worse" if self.ours < 0 else "equal") + single
        return ("as in the paper" if self.paper * self.ours > 0 else "not as in the paper") + single


def difference(row: Measured, rows: Sequence[Measured], metric: str) -> Difference:
    """How a row differs from its reference in a metric.

    Ours is the mean over the seeds that both rows have of `value - reference`, over the mean of the reference; its
    standard error is that of these paired differences.
    """
    reference = next((other for other in rows if other.id == row.reference), None)
    if reference is None:
        return Difference(None, None, None, 0)
    paper = row.paper_difference if metric == SELECTION_METRIC else None  # it is given of one metric
    if metric in row.paper and metric in reference.paper:
        paper = percent(row.paper[metric], reference.paper[metric])
    seeds = [
        seed
        for seed in sorted(row.ours.keys() & reference.ours.keys())
        if metric in row.ours[seed] and metric in reference.ours[seed]
    ]
    base = fmean(reference.ours[seed][metric] for seed in seeds) if seeds else 0.0
    if not base:
        return Difference(paper, None, None, len(seeds))
    paired = [100 * (row.ours[seed][metric] - reference.ours[seed][metric]) / base for seed in seeds]
    error = stdev(paired) / sqrt(len(paired)) if len(paired) > 1 else None
    return Difference(paper, fmean(paired), error, len(seeds))


def percent(value: float, reference: float) -> float:
    """How much larger than the reference, in percent of it."""
    return 100 * (value / reference - 1)
