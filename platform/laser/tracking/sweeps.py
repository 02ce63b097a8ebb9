"""A sweep in MLflow: one parent run, and one child run for each trial."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from laser.config.arguments import parse_value
from laser.config.schema import Experiment
from laser.errors import UserError
from laser.pages.run_figures import LOAD as EXPERT_LOAD
from laser.pages.sweep import TrialFacts, best_first, sweep_figures
from laser.storage.yaml_text import parse_yaml
from laser.tracking.description import NOTE, with_results
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
    parent: str | None = None
    """Run id of the sweep's own run; None for trials without one, and where runs are only looked up."""

    def start(self, config: BaseModel, name: str, tags: Mapping[str, Any], run_id: str | None) -> Run:
        """Open a trial's run, or resume the run of its earlier sessions."""
        return self.tracking.start(config, "trial", name, tags, parent=self.parent, run_id=run_id)

    def finish(self, run_id: str, state: str, results: RunResults, error: str | None) -> None:
        """Record what a trial has left, and close its run."""
        run = Run(self.tracking.uri, run_id)
        run.record(results)
        run.set_tags({"state": state, **({"error": error} if error else {})})
        run.finish(STATUS[state])


def read_trials(tracking: Tracking, parent: Run) -> list[TrialFacts]:
    """Return what the store knows of a sweep's trials, also while it runs."""
    with tempfile.TemporaryDirectory() as folder:  # MLflow cuts a parameter off at 6,000 characters
        text = parent.fetch("config.yaml", Path(folder)).read_text(encoding="utf-8")
    space = parse_yaml(text, "config.yaml").get("space", {})
    return [_facts(run, space) for run in tracking.search(f"tags.`mlflow.parentRunId` = '{parent.run_id}'")]


def _facts(run: Run, space: Mapping[str, Any]) -> TrialFacts:
    tags, settings, figures = run.tags(), run.settings(), run.figures("")
    rows: dict[int, dict[str, float]] = {}
    for name, course in {**_named(run, "val/"), **_named(run, EXPERT_LOAD), **_named(run, "loss")}.items():
        for epoch, value in course:
            rows.setdefault(epoch, {"epoch": float(epoch)})[name] = value
    return TrialFacts(
        name=tags.get("mlflow.runName", run.run_id),
        state=tags.get("state", "running"),
        overrides={key: parse_value(Experiment, key, settings[key]) for key in space if key in settings},
        val=run.figures("best/"),
        test=run.figures("test/"),
        epochs=int(figures.get("epochs", max(rows, default=0))),
        seconds=figures.get("seconds"),
        tokens_per_second=figures.get("tokens_per_second"),
        run_id=run.run_id,
        history=[rows[epoch] for epoch in sorted(rows)],
    )


def _named(run: Run, prefix: str) -> dict[str, list[tuple[int, float]]]:
    return {f"{prefix}{name}": course for name, course in run.course(prefix).items()}


def record_sweep(tracking: Tracking, parent: Run, table: str, records: list[Any]) -> None:
    """Record what a sweep has left: its leaderboard, its drawings, and what its best trial reached.

    Args:
        tracking: the store.
        parent: the sweep's own run.
        table: the leaderboard in Markdown, best first.
        records: the same as plain data.
    """
    trials = best_first(read_trials(tracking, parent))
    parent.log_text(table, "leaderboard.md")
    parent.log_json(records, "leaderboard.json")
    parent.log_drawings(sweep_figures(trials))
    figures = {f"best/{name}": value for name, value in trials[0].val.items()} if trials else {}
    figures |= {f"test/{name}": value for name, value in trials[0].test.items()} if trials else {}
    parent.summarise(figures)
    note = with_results(parent.tags().get(NOTE, ""), figures)
    parent.set_tags({NOTE: f"{note}\n\n{table}"})


def latest_sweep_run(tracking: Tracking) -> Run:
    """Return the run of the sweep that was started last.

    Raises:
        UserError: the experiment has none.
    """
    found = tracking.search("tags.kind = 'tune'")
    if not found:
        raise UserError(
            f"experiment: {tracking.experiment!r} holds no sweep; run jobs/tune.py, or name another experiment"
        )
    return found[0]
