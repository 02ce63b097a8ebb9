"""Runs found by the key of their settings, so that what is there is not run again."""

from dataclasses import dataclass

from laser.tracking.runs import Run
from laser.tracking.sweeps import SweepTracker

KEY = "settings_key"
"""Tag of the runs that train: equal for equal settings on equal data."""
SUPERSEDED = "superseded"
"""Tag of runs that are found no more."""


@dataclass(frozen=True)
class CellStore(SweepTracker):
    """What `laser.reproduction` asks of tracking. It pickles; `parent` is the run of the report."""

    def finished(self, key: str) -> list[Run]:
        """Runs of this key that came to their end and are not superseded, the latest first."""
        found = self.tracking.search(f"tags.{KEY} = '{key}' and attributes.status = 'FINISHED'")
        return [run for run in found if SUPERSEDED not in run.tags()]

    def supersede(self, key: str) -> None:
        """Have the runs of this key found no more; they stay."""
        for run in self.finished(key):
            run.set_tags({SUPERSEDED: "true"})
