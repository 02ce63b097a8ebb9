"""A whole training in this process, from the settings to the outcome."""

from collections.abc import Callable, Mapping
from pathlib import Path

from laser.config.schema import Experiment
from laser.training.prepare import make_artifacts
from laser.training.run.outcome import Outcome
from laser.training.train import preflight, train_laser


def train(config: Experiment, run_dir: Path, report: Callable[[Mapping[str, float], int], None]) -> Outcome:
    """Make the artifacts, check what can be checked, and train."""
    artifacts = make_artifacts(config)
    preflight(run_dir, config, artifacts)
    return train_laser(config, artifacts, run_dir, report)
