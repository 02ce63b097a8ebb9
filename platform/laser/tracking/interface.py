"""What the other rooms know of a store of runs: protocols and plain data, free of MLflow."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from laser.config.schema import Experiment

EPOCH = "epoch"
"""Key of the number of epochs done, in what a training reports. Schedulers count by it, because Tune's own count
restarts on resume."""

Report = Callable[[Mapping[str, float], int], None]
"""Takes the metrics of an epoch and the number of epochs done."""


@dataclass(frozen=True)
class RunResults:
    """What is recorded of a run, finished or not."""

    history: list[dict[str, float]]
    """Metrics and `epoch` of each epoch, from the untrained model (epoch 0) on."""
    figures: dict[str, float]
    """`best/<metric>` on validation, `untrained/<metric>`, `test/<metric>`, and the costs."""
    artifacts: dict[str, Path]
    """Folders that suffice to evaluate the run again: `checkpoint`, the selected one, and `recommender` if one is read.
    After the test there is `ranks` too, of the test users."""


class TrialRun(Protocol):
    """A run that takes metrics. It pickles, because the Train controller reports from a process of its own."""

    @property
    def run_id(self) -> str: ...

    def report(self, metrics: Mapping[str, float], step: int) -> None:
        """Take the metrics of an epoch and the number of epochs done."""


class Tracker(Protocol):
    """Where a search records its trials. It pickles."""

    def start(self, config: Experiment, name: str, tags: Mapping[str, Any], run_id: str | None) -> TrialRun:
        """Open a trial's run, or resume the run of its earlier sessions. Called in the trial's process."""

    def finish(self, run_id: str, state: str, results: RunResults, error: str | None) -> None:
        """Record and close the run of a trial that ended or was interrupted. Called in the sweep's process."""


class StoredRun(Protocol):
    """A recorded run."""

    @property
    def run_id(self) -> str: ...

    def tags(self) -> dict[str, str]: ...

    def figures(self, prefix: str) -> dict[str, float]:
        """Return the final metrics whose names start with the prefix: rest of the name → value."""

    def course(self, prefix: str) -> dict[str, list[tuple[int, float]]]:
        """Return the metrics whose names start with the prefix: rest of the name → (epoch, value)."""

    def fetch(self, name: str, into: Path) -> Path:
        """Download an artifact."""

    def has(self, name: str) -> bool:
        """Return whether there is such an artifact, a file or a folder."""


class OpenRun(StoredRun, Protocol):
    """A recorded run that takes more."""

    def summarise(self, figures: Mapping[str, float]) -> None:
        """Record final figures."""

    def log_json(self, content: Any, name: str) -> None:
        """Write a JSON artifact."""

    def log_directory(self, directory: Path, name: str) -> None:
        """Copy the files of a directory into the artifact folder `name`."""


class Records(Protocol):
    """Where single runs are recorded."""

    def run(
        self, config: BaseModel, kind: str, name: str, tags: Mapping[str, Any], run_id: str | None = None
    ) -> AbstractContextManager[OpenRun]:
        """Open a run, or resume one, and close it after the block."""


class Store(Tracker, Protocol):
    """A tracker whose runs are found by the key of their settings."""

    def finished(self, key: str) -> Sequence[StoredRun]:
        """Return the finished runs of this key that are not superseded, the latest first."""

    def supersede(self, key: str) -> None:
        """Mark the runs of this key, so that they are no longer found. The runs stay."""
