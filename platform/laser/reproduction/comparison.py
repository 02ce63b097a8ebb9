"""Compares recorded runs user by user: who is measured in the same way, and what the figures are.

Shape suffixes: S systems, E users.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laser.config.compose import flatten, read_yaml, validate
from laser.config.jobs import CompareJob
from laser.config.schema import DataConfig, Experiment
from laser.data.dataset import Dataset
from laser.data.evaluated import evaluated_examples, evidence, list_context, segment_context
from laser.errors import UserError
from laser.evaluation.findings import findings
from laser.evaluation.lists import list_metrics
from laser.evaluation.many import Pair, compare_all, intervals
from laser.evaluation.metrics import rank_metric
from laser.evaluation.segments import segments
from laser.evaluation.user_ranks import TEST_RANKS, UserRanks, read_ranks
from laser.tracking.interface import StoredRun

NAMES = ("mlflow.runName", "name")
"""Tags that name a run: of MLflow, and of a folder of runs."""
KEY = "settings_key"
"""Tag of the runs that train: equal for equal settings on equal data."""
COSTS = ("points", "search_seconds", "seconds", "trainable_parameters", "peak_mib")
"""Figures of a run that say what it took: points of its search, seconds of all of them and of the one that was chosen,
trained weights, and the most resident memory in the last epoch of a stage."""
REMEDY = "compare runs on the same split of the same data"


@dataclass(frozen=True)
class System:
    """A recorded run, and the ranks of its test users."""

    name: str
    run_id: str
    experiment: Experiment
    fingerprint: str
    ranks: UserRanks
    costs: dict[str, float]
    """Those of `COSTS` that the run has recorded."""


@dataclass(frozen=True)
class Comparison:
    """Figures of systems on the same users, the best by the first metric first."""

    systems: list[System]
    metrics: dict[str, NDArray[np.float64]]
    """Metric → values of each user under each system, float64 [S, E]."""
    intervals: dict[str, NDArray[np.float64]]
    """Metric → 95 % interval of each system's mean, float64 [S, 2]."""
    lists: list[dict[str, float]]
    """Metrics of each system's lists; empty where it has none."""
    pairs: list[Pair]
    """All pairs, by the first metric."""
    segments: dict[str, NDArray[np.bool_]]
    """Name of a group of users → who is in it, bool [E]."""
    findings: list[list[str]]
    """What makes the evaluation of each system doubtful."""
    dataset: Dataset
    job: CompareJob

    @property
    def first_metric(self) -> str:
        """The metric that orders, and that is tested."""
        return self.job.metrics[0]

    def figures(self) -> dict[str, Any]:
        """Return all figures as JSON-able values."""
        names = [system.name for system in self.systems]
        systems = [
            {
                "name": system.name,
                "run_id": system.run_id,
                **{name: float(values_SE[row].mean()) for name, values_SE in self.metrics.items()},
                "interval": self.intervals[self.first_metric][row].tolist(),
                **self.lists[row],
                **{name: system.costs.get(name) for name in COSTS},
                "segments": {
                    name: float(self.metrics[self.first_metric][row, users_E].mean())
                    for name, users_E in self.segments.items()
                },
                "findings": self.findings[row],
            }
            for row, system in enumerate(self.systems)
        ]
        pairs = [{**asdict(pair), "first": names[pair.first], "second": names[pair.second]} for pair in self.pairs]
        protocol = {"history": self.job.history, "metric": self.first_metric, "num_users": len(self.systems[0].ranks)}
        return {"data": self.dataset.facts(), **protocol, "systems": systems, "pairs": pairs}


def read_systems(runs: Sequence[StoredRun]) -> list[System]:
    """Read runs; of several with the same settings and data the first stays. Equal names get the run's id.

    Raises:
        UserError: a run has no ranks of test users.
    """
    systems: dict[str, System] = {}
    for run in runs:
        tags = run.tags()
        name = next((tags[tag] for tag in NAMES if tag in tags), run.run_id)
        with tempfile.TemporaryDirectory() as folder:
            settings = read_yaml(run.fetch("config.yaml", Path(folder)))
            ranks = read_ranks(run.fetch("ranks", Path(folder)) / TEST_RANKS.name)
            experiment = validate(Experiment, settings)
        if any(system.name == name for system in systems.values()):
            name = f"{name} {run.run_id[:6]}"
        costs = {figure: value for figure, value in run.figures("").items() if figure in COSTS}
        system = System(name, run.run_id, experiment, tags["dataset_fingerprint"], ranks, costs)
        systems.setdefault(tags.get(KEY, run.run_id), system)
    return list(systems.values())


def check_comparable(systems: Sequence[System]) -> None:
    """Refuse systems that are not measured in the same way.

    Raises:
        UserError: names the first difference: split, other settings of the data, fingerprint, or users and targets.
    """
    if len(systems) < 2:
        raise UserError(f"runs: {len(systems)} with ranks of test users and settings of its own; give two at least")
    first = systems[0]
    for other in systems[1:]:
        who = f"runs: {first.name} ({first.run_id}) and {other.name} ({other.run_id})"
        before, now = (_protocol(system.experiment.data) for system in (first, other))
        keys = sorted({*before, *now}, key=lambda key: (key != "split.type", not key.startswith("split."), key))
        different = [key for key in keys if before.get(key) != now.get(key)]
        if different and first.fingerprint != other.fingerprint:
            key = different[0]
            values = f"{before.get(key)!r} and {now.get(key)!r}"
            raise UserError(f"{who} differ in data.{key}: {values}; {REMEDY}")
        if first.fingerprint != other.fingerprint:
            raise UserError(
                f"{who} differ in the dataset's fingerprint: {first.fingerprint} and {other.fingerprint}; {REMEDY}"
            )
        same = all(np.array_equal(getattr(first.ranks, x), getattr(other.ranks, x)) for x in ("users", "targets"))
        if not same:
            sizes = f"{len(first.ranks)} and {len(other.ranks)} users"
            raise UserError(f"{who} differ in the test users or their targets ({sizes}); {REMEDY}")


def compare_systems(systems: Sequence[System], dataset: Dataset, job: CompareJob) -> Comparison:
    """Measure and test all systems.

    Raises:
        UserError: an unknown metric, or ranks of other users than the dataset's.
    """
    functions = {name: rank_metric(name) for name in job.metrics}
    order = sorted(systems, key=lambda system: -functions[job.metrics[0]](_ranks(system, job)).mean())
    metrics = {
        name: np.stack([function(_ranks(system, job)) for system in order]) for name, function in functions.items()
    }
    examples = evaluated_examples(dataset, order[0].ranks)
    values_SE = metrics[job.metrics[0]]
    known = evidence(dataset, examples, order[0].ranks)
    return Comparison(
        systems=order,
        metrics=metrics,
        intervals={name: intervals(values, job.rounds, job.seed) for name, values in metrics.items()},
        lists=_list_metrics([system.ranks for system in order], dataset),
        pairs=compare_all(values_SE, job.rounds, job.seed, job.alpha),
        segments=segments(segment_context(dataset, examples)),
        findings=[findings(replace(known, ranks=system.ranks)) for system in order],
        dataset=dataset,
        job=job,
    )


def _ranks(system: System, job: CompareJob) -> NDArray[np.int64]:
    return system.ranks.ranks if job.history == "shown" else system.ranks.masked


def _list_metrics(ranks: Sequence[UserRanks], dataset: Dataset) -> list[dict[str, float]]:
    with_lists = [one for one in ranks if one.lists_EK is not None]
    if not with_lists:
        return [{} for _ in ranks]
    context = list_context(dataset, with_lists[0])  # users, targets and candidates are the same
    return [{} if one.lists_EK is None else list_metrics(one.lists_EK, context) for one in ranks]


def _protocol(data: DataConfig) -> dict[str, Any]:
    """Return the settings of the data that say what is measured; not where the data lie, and how they are read."""
    return {key: value for key, value in flatten(data).items() if key not in ("path", "memory_mib", "format")}
