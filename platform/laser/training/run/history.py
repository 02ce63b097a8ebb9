"""Stores a run's metrics epoch by epoch in a file of their own, so that readers need not open the weights.

    history.json    the best checkpoint so far, the time, and the metrics of each epoch

The file is written anew after each checkpoint. A checkpoint holds the same rows, and a run that resumes restores the
file from them.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from laser.storage.files import write_json

FILE = "history.json"


@dataclass(frozen=True)
class History:
    """Holds what a run has reported so far."""

    rows: list[dict[str, float]]
    """The metrics and `epoch` of each epoch; epoch 0 is the untrained model."""
    best: str | None
    """Name of the checkpoint with the best validation NDCG@10; None before the first epoch has ended."""
    seconds: float | None
    """Time of training, encoding and validation so far, over all sessions; None before the first checkpoint."""


def write_history(run_dir: Path, history: History) -> None:
    """Write the file whole or not at all."""
    write_json(run_dir / FILE, asdict(history))


def read_history(run_dir: Path) -> History:
    """Return the history of a run, which is empty before its first checkpoint."""
    path = run_dir / FILE
    return History(**json.loads(path.read_text())) if path.is_file() else History([], None, None)
