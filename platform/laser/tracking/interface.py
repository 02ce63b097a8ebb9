"""What the other rooms know of a store of runs: protocols and plain data, free of MLflow."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from laser.config.schema import Experiment

EPOCH = "epoch"
"""Our own count of epochs in what trainings report; schedulers use it, because Tune's iteration restarts on resume."""


Report = Callable[[Mapping[str, float], int], None]
"""Takes the metrics of an epoch and the number of epochs done."""


@dataclass(frozen=True)
class RunResults:
    """What there is to record of a run, finished or not."""

    history: list[dict[str, float]]
    """Metrics and `epoch` of each epoch, from the untrained model (epoch 0) on."""
    figures: dict[str, float]
    """`best/<metric>` on validation, `untrained/<metric>`, `test/<metric>`, and the costs."""
    artifacts: dict[str, Path]
    """Folders: `checkpoint` (the selected one) and, if one is read, `recommender`, enough to evaluate the run again;
    `ranks` of the test users, once the test set was read."""


class TrialRun(Protocol):
    """Where a trial's metrics go. It pickles, because the Train controller reports from a process of its own."""

    @property
    def run_id(self) -> str: ...

    def report(self, metrics: Mapping[str, float], step: int) -> None:
        """Take the metrics of an epoch and the number of epochs done."""


class Tracker(Protocol):
    """What a search needs from tracking; it pickles."""

    def start(self, config: Experiment, name: str, tags: Mapping[str, Any], run_id: str | None) -> TrialRun:
        """Open a trial's run, or the one of its earlier sessions. Called in the trial's process."""

    def finish(self, run_id: str, state: str, results: RunResults, error: str | None) -> None:
        """Record and close the run of a trial that ended or was interrupted. Called in the sweep's process."""


class StoredRun(Protocol):
    """A recorded run."""

    @property
    def run_id(self) -> str: ...

    def tags(self) -> dict[str, str]: ...

    def figures(self, prefix: str) -> dict[str, float]:
        """Final metrics by what follows the prefix in their names."""

    def course(self, prefix: str) -> dict[str, list[tuple[int, float]]]:
        """The metrics whose names start with the prefix, over the epochs: rest of the name → (epoch, value)."""

    def fetch(self, name: str, into: Path) -> Path:
        """Download an artifact."""

    def has(self, name: str) -> bool:
        """Whether there is such an artifact, a file or a folder."""


class Store(Protocol):
    """Runs that are found by the key of their settings."""

    def finished(self, key: str) -> Sequence[StoredRun]:
        """Runs of this key that came to their end and are not superseded, the latest first."""

    def supersede(self, key: str) -> None:
        """Have its runs found no more; they stay."""

    def start(self, config: Experiment, name: str, tags: Mapping[str, Any], run_id: str | None) -> Any:
        """Open the run of a cell; see `laser.tuning.trial.Tracker`."""

    def finish(self, run_id: str, state: str, results: RunResults, error: str | None) -> None:
        """Record and close it."""
