"""Stores the outcome of a run, and reads the run's figures, history and files from its directory."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from laser.evaluation.user_ranks import TEST_RANKS
from laser.scoring.scored import read_facts
from laser.storage.files import write_json
from laser.tracking.interface import RunResults
from laser.training.run.checkpoint import Checkpoint, checkpoint_name, read_checkpoint
from laser.training.run.history import read_history

SELECTION = Path("selection/users.parquet")
"""In a run's directory: the training users by their scores, where these chose among them."""


@dataclass(frozen=True)
class Outcome:
    """Holds what a finished run writes into `result.json` of its directory."""

    val: dict[str, float]
    """Validation metrics of the selected epoch."""
    test: dict[str, float] | None
    untrained_val: dict[str, float]
    """Validation metrics before the first step."""
    selected: str
    """Name of the selected checkpoint."""
    epochs: int
    trainable_parameters: int
    tokens_per_second: float
    """Training throughput of all workers, in tokens that the LLM reads: with virtual tokens, without padding."""
    seconds: float
    """Time of training, encoding and validation, without process start and test."""


def write_outcome(run_dir: Path, outcome: Outcome) -> None:
    """Write `result.json` whole or not at all."""
    write_json(run_dir / "result.json", asdict(outcome))


def read_outcome(run_dir: Path) -> Outcome | None:
    """Return the outcome of a finished run, or None."""
    path = run_dir / "result.json"
    return Outcome(**json.loads(path.read_text())) if path.is_file() else None


def run_results(run_dir: Path) -> RunResults:
    """Collect the figures, history and artifacts that the directory holds so far."""
    history, outcome = read_history(run_dir), read_outcome(run_dir)
    if not history.rows:
        return RunResults([], {}, {})
    best = read_checkpoint(run_dir / "checkpoints" / (history.best or checkpoint_name(0, 0)))
    figures = prefixed("untrained", epoch_metrics(history.rows[0])) | prefixed("best", best_metrics(best))
    if outcome is not None:
        figures |= prefixed("test", outcome.test or {})
        costs = ("epochs", "trainable_parameters", "tokens_per_second", "seconds")
        figures |= {name: float(getattr(outcome, name)) for name in costs}
    if (run_dir / SELECTION).is_file():
        figures |= prefixed("selection", read_facts(run_dir / SELECTION))
    artifacts = {"checkpoint": best.path, "recommender": run_dir / "recommender"}
    artifacts |= {"ranks": run_dir / TEST_RANKS.parent, "selection": run_dir / SELECTION.parent}
    existing = {name: path for name, path in artifacts.items() if path.is_dir()}
    return RunResults(history.rows, figures, existing)


def best_metrics(checkpoint: Checkpoint) -> dict[str, float]:
    """Return the validation metrics of a checkpoint's epoch, or the untrained model's if no epoch has ended yet."""
    return epoch_metrics(checkpoint.state.history[-1 if checkpoint.state.best else 0])


def epoch_metrics(row: dict[str, float]) -> dict[str, float]:
    """Return the validation metrics of one row of a history, by their plain names."""
    return {name.removeprefix("val/"): value for name, value in row.items() if name.startswith("val/")}


def prefixed(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """Return metrics by the names `<prefix>/<name>`."""
    return {f"{prefix}/{name}": value for name, value in metrics.items()}
