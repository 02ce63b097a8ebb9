"""Suite tune: what a sweep adds to the training of its trials.

It runs `jobs/tune.py` as a user would, on the space and search of `configs/tune/quickstart.yaml`, and times what the
job says: when trials end, and how soon after that the next one reports its first epoch. What a trial takes from the end
of the one before it, less its own training, encoding and validation, is the sweep's overhead: processes, imports,
loading, records.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from laser.benchmarks.suites import BenchmarkResult
from laser.config.jobs import BenchmarkJob
from laser.training.inputs import prepare_inputs
from laser.training.run.checkpoint import latest_checkpoint

REFERENCE_SECONDS = 300.0
"""Length of the trial that the overhead is set against."""
_LINE = re.compile(r"trial (?P<name>\S+(?: \S+)*?)(?:, epoch (?P<epoch>\d+):| (?P<state>started|finished|stopped):?)")


@dataclass
class _Trial:
    """Moments of one trial, in seconds of one clock."""

    started: float = 0.0
    first_epoch: float = 0.0
    """When the untrained model's validation was reported."""
    ended: float = 0.0
    state: str = ""
    own_seconds: float = 0.0
    """Training, encoding and validation."""


def run(job: BenchmarkJob) -> BenchmarkResult:
    """Time a sweep whose shared stages are made, once with all trials finished and once with ASHA."""
    prepare_inputs(job)
    plain, asha = (_sweep(job, scheduler) for scheduler in ("none", "asha"))
    overheads = [overhead for trials in (plain, asha) for overhead in _overheads(trials)]
    finished, stopped = (
        [wait for trials in (plain, asha) for wait in _waits(trials, state)] for state in ("finished", "stopped")
    )
    overhead = median(overheads)
    figures: dict[str, Any] = {
        "overhead_seconds_per_trial": {
            "median": round(overhead, 2),
            "min": round(min(overheads), 2),
            "max": round(max(overheads), 2),
        },
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
            "trial": name,
            "state": trial.state,
            "from the one before": trial.ended - before,
            "of it own": trial.own_seconds,
            "start to first epoch": trial.first_epoch - trial.started,
        }
        for scheduler, trials in (("none", plain), ("asha", asha))
        for (name, trial), before in zip(trials, _ends_before(trials), strict=True)
    ]
    return BenchmarkResult(figures, rows)


def _sweep(job: BenchmarkJob, scheduler: str) -> list[tuple[str, _Trial]]:
    """Run the sweep and note when its lines come, trial by trial in order."""
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
        trials: dict[str, _Trial] = {}
        with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as run:
            assert run.stderr is not None
            for line in run.stderr:
                print(line, end="", file=sys.stderr, flush=True)
                _note(trials, line, time.perf_counter())
        if run.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with status {run.returncode}; see above")
        for path in Path(folder).glob("runs/sweeps/*/trials/*/record.json"):
            checkpoint = latest_checkpoint(path.parent / "checkpoints")
            assert checkpoint is not None
            trials[json.loads(path.read_text())["name"]].own_seconds = checkpoint.state.seconds
    return sorted(trials.items(), key=lambda item: item[1].started)


def _note(trials: dict[str, _Trial], line: str, now: float) -> None:
    found = _LINE.search(line)
    if not found:
        return
    trial = trials.setdefault(found["name"], _Trial())
    if found["state"] == "started":
        trial.started = now
    elif found["state"]:
        trial.ended, trial.state = now, found["state"]
    elif found["epoch"] == "0":
        trial.first_epoch = now


def _ends_before(trials: list[tuple[str, _Trial]]) -> list[float]:
    """When the trial before each ended; for the first, when it started itself."""
    return [trials[0][1].started, *(trial.ended for _, trial in trials[:-1])]


def _overheads(trials: list[tuple[str, _Trial]]) -> list[float]:
    pairs = zip(trials, _ends_before(trials), strict=True)
    return [trial.ended - before - trial.own_seconds for (_, trial), before in pairs]


def _waits(trials: list[tuple[str, _Trial]], state: str) -> list[float]:
    """Seconds from the end of each trial of this state to the first epoch of the next."""
    pairs = zip(trials, trials[1:], strict=False)
    return [after.first_epoch - one.ended for (_, one), (_, after) in pairs if one.state == state]
