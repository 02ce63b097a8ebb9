"""Runs that are found by the key of their settings, so that no cell is run twice."""

from dataclasses import dataclass

from laser.tracking.run import Run
from laser.tracking.sweeps import SweepTracker

KEY = "settings_key"
"""Tag of the runs that train: equal for equal settings on equal data."""
SUPERSEDED = "superseded"
"""Tag of the runs that are no longer found."""


@dataclass(frozen=True)
class CellStore(SweepTracker):
    """The store of a reproduction (`laser.tracking.interface.Store`). It pickles; `parent` is the report's run."""

    def finished(self, key: str) -> list[Run]:
        """Return the finished runs of this key that are not superseded, the latest first."""
        found = self.tracking.search(f"tags.{KEY} = '{key}' and attributes.status = 'FINISHED'")
        return [run for run in found if SUPERSEDED not in run.tags()]

    def supersede(self, key: str) -> None:
        """Mark the runs of this key, so that they are no longer found. The runs stay."""
        for run in self.finished(key):
            run.set_tags({SUPERSEDED: "true"})
