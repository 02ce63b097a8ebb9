"""Suite tune: what a sweep adds to the training of its trials.

It runs `jobs/tune.py` as a user would, on the space and search of `configs/tune/quickstart.yaml`, and reads the trials'
records. A trial takes the time from the end of the trial before it to its own end. What remains of that without its
training, encoding and validation is the sweep's overhead: processes, imports, loading, records.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from laser.benchmarks.measure import spread
from laser.benchmarks.suites import BenchmarkResult
from laser.config.jobs import BenchmarkJob
from laser.training.prepare import make_artifacts
from laser.tuning.sweep import Sweep, TrialRecord, TrialState

REFERENCE_SECONDS = 300.0
"""Length of the trial that the overhead is compared with."""


def run(job: BenchmarkJob) -> BenchmarkResult:
    """Time a sweep whose artifacts are made, once with all trials finished and once with ASHA."""
    make_artifacts(job)
    return summarise({scheduler: _sweep(job, scheduler) for scheduler in ("none", "asha")})


def _sweep(job: BenchmarkJob, scheduler: str) -> list[TrialRecord]:
    """Run a sweep and return its records."""
    script = Path(sys.argv[0]).absolute().parent / "tune.py"
    with tempfile.TemporaryDirectory() as folder:
        settings = [
            f"config={script.parent.parent / 'configs/tune/quickstart.yaml'}",
            f"cache_dir={Path(job.cache_dir).expanduser().absolute()}",
            f"output_dir={folder}/runs",
            f"tracking.uri=sqlite:///{folder}/mlflow.db",
            f"search.scheduler={scheduler}",
        ]
        command = [sys.executable, str(script), *settings]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}; see above")
        [path] = Path(folder).glob("runs/sweeps/*")
        return Sweep(path).records()


def summarise(sweeps: dict[str, list[TrialRecord]]) -> BenchmarkResult:
    """Make the figures of sweeps that ran their trials one after the other: scheduler → records in any order."""
    ordered = {
        scheduler: sorted(trials, key=lambda trial: known(trial.started)) for scheduler, trials in sweeps.items()
    }
    all_overheads = [overhead for trials in ordered.values() for overhead in overheads(trials)]
    finished, stopped = (
        [wait for trials in ordered.values() for wait in waits(trials, state)] for state in ("finished", "stopped")
    )
    overhead = median(all_overheads)
    figures: dict[str, Any] = {
        "overhead_seconds_per_trial": spread(all_overheads, 2),
        "overhead_share_of_5_minute_trial": round(overhead / REFERENCE_SECONDS, 4),
        "seconds_to_next_first_epoch": {
            "after_finished": round(median(finished), 2),
            "after_stopped": round(median(stopped), 2) if stopped else None,
        },
        "trials": {"finished": len(finished), "stopped": len(stopped)},
    }
    rows = [
        {
            "scheduler": scheduler,
            "trial": trial.name,
            "state": trial.state,
            "from the one before": known(trial.ended) - before,
            "of it own": trial.seconds,
            "start to first epoch": known(trial.first_epoch) - known(trial.started),
        }
        for scheduler, trials in ordered.items()
        for trial, before in zip(trials, ends_before(trials), strict=True)
    ]
    return BenchmarkResult(figures, rows)


def ends_before(trials: Sequence[TrialRecord]) -> list[float]:
    """Return when the trial before each one ended; for the first, when it was started itself."""
    return [known(trials[0].started), *(known(trial.ended) for trial in trials[:-1])]


def overheads(trials: Sequence[TrialRecord]) -> list[float]:
    """Return the seconds of each trial that were not its own training, encoding and validation."""
    pairs = zip(trials, ends_before(trials), strict=True)
    return [known(trial.ended) - before - known(trial.seconds) for trial, before in pairs]


def waits(trials: Sequence[TrialRecord], state: TrialState) -> list[float]:
    """Return the seconds from the end of each trial of this state to the first epoch of the next trial."""
    return [known(after.first_epoch) - known(one.ended) for one, after in pairwise(trials) if one.state == state]


def known(value: float | None) -> float:
    """Return a figure of a record; it is null if the trial failed before its first epoch."""
    if value is None:
        raise RuntimeError("a trial of the sweep failed before its first epoch; see above")
    return value
