"""What reproduction needs of a store of runs; `laser.tracking.cells` offers it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from laser.config.schema import Experiment
from laser.training.outcome import RunResults


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
