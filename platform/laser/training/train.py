"""Trains Laser once, in this process or on Ray Train workers.

Models are imported only where they are trained, so this module loads quickly.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from laser.config.identity import settings_key
from laser.config.schema import Experiment
from laser.data.dataset import open_dataset
from laser.storage.places import check_free
from laser.tracking.interface import Report
from laser.training.artifacts import Artifacts
from laser.training.run.checkpoint import check_epochs, check_same_settings, dependent_settings, latest_checkpoint
from laser.training.run.outcome import SELECTION, Outcome, read_outcome

LLM_TAG = "llm_content"
"""Tag of a run: what names the content of its LLM (`laser.config.identity.llm_content`)."""
KEPT_CHECKPOINTS = 3
"""A run directory holds at most the last checkpoint, the best one, and the one that is being written."""


def train_laser(
    config: Experiment, artifacts: Artifacts, run_dir: Path, report: Report, callbacks: Sequence[Any] = ()
) -> Outcome:
    """Train one experiment, write its outcome to `run_dir/result.json`, and return it.

    With `training.num_workers` 0 it trains in this process with plain torch. Otherwise it trains on Ray Train workers
    with DeepSpeed, and hands them the artifacts.

    Args:
        config: the experiment, with absolute paths (`with_absolute_paths`), checked by `preflight`.
        artifacts: what the experiment reads (`laser.training.prepare`).
        run_dir: the run's own directory, an absolute path. It holds `checkpoints/` and a copy of the `recommender/`, if
            one is read. Training resumes from the last whole checkpoint in it. On a cluster it lies on storage that all
            nodes share.
        report: called after every epoch. On Ray the controller's process calls it, so it must pickle.
        callbacks: Ray Train callbacks, such as Tune's report callback, for at least 1 worker. If the `wait` of one is
            set, each worker calls `wait(epoch)` after it has reported an epoch, and then trains on.

    Raises:
        FloatingPointError: the loss became infinite or not a number.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    if artifacts.recommender is not None:
        being_written = shutil.ignore_patterns("*.writing")  # by a process that tests the same recommender
        shutil.copytree(artifacts.recommender, run_dir / "recommender", ignore=being_written, dirs_exist_ok=True)
    if artifacts.users is not None:
        (run_dir / SELECTION.parent).mkdir(exist_ok=True)
        shutil.copyfile(artifacts.users, run_dir / SELECTION)
    if config.training.num_workers == 0:
        from laser.training.plain import train_here

        return train_here(config, artifacts, run_dir, report)
    from laser.training.ray_train import train_on_workers  # loads Ray and DeepSpeed only where they are used

    train_on_workers(config, artifacts, run_dir, report, callbacks)
    outcome = read_outcome(run_dir)
    assert outcome is not None, "the workers ended without an error but wrote no result.json"
    return outcome


def preflight(run_dir: Path, config: Experiment, artifacts: Artifacts) -> None:
    """Check for the user's mistakes before workers start, because a worker's error looks like our failure.

    The caller has already checked config, data, LLM and MLflow. This function refuses four things: a run directory
    whose weights come from other settings or data, more epochs of a stage that it has left, starting weights that do
    not fit, and a disk that is too full for the checkpoints.

    Raises:
        UserError: names the first setting that differs, the first weight that does not fit, or the missing disk space.
    """
    held = sum(path.stat().st_size for path in run_dir.glob("checkpoints/*/*") if path.is_file())
    needed = KEPT_CHECKPOINTS * artifacts.checkpoint_bytes - held
    check_free(run_dir, needed, "output_dir", f"{KEPT_CHECKPOINTS} checkpoints")
    checkpoint = latest_checkpoint(run_dir / "checkpoints")
    if checkpoint is not None:
        check_same_settings(checkpoint.state, dependent_settings(config, artifacts.fingerprint, artifacts.llm_content))
        check_epochs(checkpoint.state, config)
    elif config.training.start_from is not None:
        from laser.training.run.transfer import check_start  # imports the models

        check_start(config, artifacts)


def run_tags(config: Experiment, artifacts: Artifacts) -> dict[str, str | int]:
    """Return the tags that runs are found and grouped by: data, LLM, and the settings that are compared most often."""
    return {
        "dataset": artifacts.dataset,
        "dataset_fingerprint": artifacts.fingerprint,
        "data": open_dataset(artifacts.dataset_directory).described(),
        "llm": config.llm.source,
        LLM_TAG: artifacts.llm_content,
        "K": config.mformer.num_experts,
        "L": config.mformer.num_virtual_tokens,
        "settings_key": settings_key(config, artifacts.fingerprint),
    }
