"""One trial of a sweep, from its settings to its record, with Ray or without."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from laser.config.compose import with_overrides
from laser.config.paths import with_absolute_paths
from laser.config.schema import Experiment
from laser.evaluation.metrics import SELECTION_METRIC
from laser.tracking.interface import EPOCH, Report, Tracker
from laser.training.artifacts import Artifacts
from laser.training.run.history import read_history
from laser.training.run.outcome import Outcome, epoch_metrics, read_outcome, run_results
from laser.training.train import preflight, run_tags, train_laser
from laser.tuning.sweep import Sweep, Trial, TrialRecord

logger = logging.getLogger(__name__)

METRIC = f"val/{SELECTION_METRIC}"


def train_trial(
    trial: Trial,
    base: Experiment,
    artifacts: Artifacts | None,
    tracker: Tracker,
    callbacks: Sequence[Any] = (),
    epoch_done: Report | None = None,
) -> Outcome:
    """Train a trial to its end, from its last checkpoint if it has one.

    Args:
        trial: its directory and what it varies.
        base: the experiment that it varies.
        artifacts: what it reads; None makes it.
        tracker: opens its run.
        callbacks: Ray Train callbacks, for num_workers of at least 1.
        epoch_done: called after each epoch with the metrics and the number of epochs done, with num_workers 0.
    """
    trial.note("started")
    experiment = with_absolute_paths(with_overrides(base, trial.overrides))
    if artifacts is None:
        from laser.training.prepare import make_artifacts  # it imports the models, which takes seconds

        artifacts = make_artifacts(experiment)
    preflight(trial.path, experiment, artifacts)
    run = tracker.start(experiment, trial.name, {**run_tags(experiment, artifacts), **trial.symbols}, trial.run_id)
    trial.remember_run(run.run_id)
    report = _NotedReport(trial, run.report)
    if experiment.training.num_workers or epoch_done is None:
        return train_laser(experiment, artifacts, trial.path, report, callbacks)

    def report_here(metrics: Mapping[str, float], epoch: int) -> None:
        report(metrics, epoch)
        epoch_done(metrics, epoch)

    return train_laser(experiment, artifacts, trial.path, report_here)


@dataclass(frozen=True)
class _NotedReport:
    """A run's report that also notes the trial's first epoch. It pickles, as the report does."""

    trial: Trial
    report: Report

    def __call__(self, metrics: Mapping[str, float], epoch: int) -> None:
        self.report(metrics, epoch)
        if epoch == 0:
            self.trial.note("first_epoch")


def end_trial(
    trial: Trial, state: Literal["finished", "stopped", "failed"], tracker: Tracker, error: str | None = None
) -> None:
    """Record how a trial ended, and close its run.

    Args:
        trial: its directory.
        state: how it ended.
        tracker: closes its run.
        error: the whole error of a failed trial; it goes into `error.txt`.
    """
    record = trial.record()
    if record is not None and record.is_final:
        return  # the trial only repeated its reports
    last_line = None
    if error is not None:
        last_line = error.splitlines()[-1]
        trial.path.mkdir(parents=True, exist_ok=True)
        (trial.path / "error.txt").write_text(f"{error}\n", encoding="utf-8")
    reports, outcome = epoch_reports(trial), read_outcome(trial.path)
    best = best_report(reports)
    if trial.run_id is not None:
        tracker.finish(trial.run_id, state, run_results(trial.path), last_line)
    record = TrialRecord(
        name=trial.name,
        overrides=trial.overrides,
        state=state,
        run_id=trial.run_id,
        val=epoch_metrics(best),
        test=outcome.test if outcome else None,
        epochs=int(reports[-1][EPOCH]) if reports else 0,
        error=last_line,
        started=trial.moment("started"),
        first_epoch=trial.moment("first_epoch"),
        ended=round(time.time(), 3),
        seconds=read_history(trial.path).seconds,
    )
    trial.write_record(record)
    if error is None:
        logger.info("trial %s %s: best %s %.4f", trial.name, state, METRIC, best[METRIC])
    else:
        logger.error("trial %s failed: %s (whole error: %s)", trial.name, last_line, trial.path / "error.txt")


def end_unfinished(sweep: Sweep, tracker: Tracker) -> None:
    """Close the runs of trials that an interruption has left unfinished; a resumed sweep continues them."""
    for trial in sweep.unfinished_trials():
        if trial.run_id is not None:
            tracker.finish(trial.run_id, "interrupted", run_results(trial.path), None)


def best_report(reports: list[dict[str, float]]) -> dict[str, float]:
    """Return the report of the best epoch; the untrained model, epoch 0, is a candidate only if it is alone."""
    trained = [report for report in reports if report[EPOCH] > 0]
    return max(trained or reports, key=lambda report: report[METRIC], default={})


def epoch_reports(trial: Trial) -> list[dict[str, float]]:
    """Return the validation metrics of each epoch, over all sessions of the trial."""
    rows = read_history(trial.path).rows
    return [{name: value for name, value in row.items() if name == EPOCH or name.startswith("val/")} for row in rows]
