"""Silences what libraries say and nobody can act on: each message by itself, for a reason. All others come through."""

import os
import re
import warnings
from dataclasses import dataclass


@dataclass(frozen=True)
class Noise:
    """A message that is dropped."""

    source: str
    """The module that warns, or the process that prints it."""
    words: str
    """Regular expression: of a warning's beginning, or of a part of a line."""
    reason: str


WARNED: tuple[Noise, ...] = (
    Noise("torch.distributed", "", "DeepSpeed calls functions of torch by names that are deprecated"),
)
PRINTED: tuple[Noise, ...] = (
    Noise(
        "TrainController",
        "Actor with class name: 'PreemptionWatcher' .*constructor arguments in the object store and max_restarts > 0",
        "Ray Train starts this actor itself, and nothing of ours decides how",
    ),
    Noise(
        "raylet",
        r"WARNING: \d+ PYTHON worker processes have been started on node: .* maximum expected startup concurrency",
        "trials, controllers and workers are processes, as many as search.max_concurrent_trials asks for",
    ),
    Noise(
        "raylet",
        r"Task ServeController\.graceful_shutdown failed\. .* killed by `ray\.kill`",
        "Ray Serve ends its controller so itself",
    ),
    Noise(
        "ray job submit",
        r"\t(INFO|SUCC) (cli|job_manager)\.py:\d+ -- |^Running entrypoint for job ",
        "it says how to follow the job, which whoever submitted it does already",
    ),
)


def quieten() -> None:
    """Drop what this process is warned of without need."""
    for noise in WARNED:
        warnings.filterwarnings("ignore", noise.words, FutureWarning, noise.source)


def is_noise(line: str) -> bool:
    """Return whether a line that another process has printed is noise."""
    return any(re.search(noise.words, line) for noise in PRINTED)


def name_accelerator(has_gpu: bool) -> None:
    """Tell DeepSpeed, before it is imported, that there is no GPU. Left to itself it finds out, and warns of it."""
    if not has_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
