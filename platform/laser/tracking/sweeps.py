"""A sweep in MLflow: one parent run, and one child run for each trial."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from laser.tracking.interface import RunResults
from laser.tracking.run import Run, Status
from laser.tracking.runs import Tracking

STATUS: dict[str, Status] = {
    "finished": "FINISHED",
    "stopped": "FINISHED",  # by the scheduler, which is no failure: the epochs count
    "failed": "FAILED",
    "interrupted": "KILLED",
}


@dataclass(frozen=True)
class SweepTracker:
    """The tracker of a search (`laser.tracking.interface.Tracker`). It pickles."""

    tracking: Tracking
    parent: str
    """Run id of the sweep's own run."""

    def start(self, config: BaseModel, name: str, tags: Mapping[str, Any], run_id: str | None) -> Run:
        """Open a trial's run, or resume the run of its earlier sessions."""
        return self.tracking.start(config, "trial", name, tags, parent=self.parent, run_id=run_id)

    def finish(self, run_id: str, state: str, results: RunResults, error: str | None) -> None:
        """Record what a trial has left, and close its run."""
        run = Run(self.tracking.uri, run_id)
        run.record(results)
        run.set_tags({"state": state, **({"error": error} if error else {})})
        run.finish(STATUS[state])
