"""Train Laser once, in this process or on Ray Train workers; the models are imported where they are trained."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from laser.config.identity import settings_key
from laser.config.paths import with_absolute_paths
from laser.config.schema import Experiment
from laser.errors import UserError
from laser.tracking.interface import Report
from laser.training.artifacts import SharedStages
from laser.training.run.checkpoint import check_same_settings, dependent_settings, latest_checkpoint
from laser.training.run.outcome import Outcome, read_outcome

KEPT_CHECKPOINTS = 3
"""The last, the best, and the one that is being written."""


def train_laser(
    config: Experiment, stages: SharedStages, run_dir: Path, report: Report, callbacks: Sequence[Any] = ()
) -> Outcome:
    """Train one experiment and return its outcome, which also stands in `run_dir/result.json`.

    With `training.num_workers` 0 it trains in this process with plain torch; otherwise on Ray Train workers with
    DeepSpeed, which open the shared inputs for themselves.

    Args:
        config: the experiment.
        stages: the stages that it shares with others (`make_stages`).
        run_dir: one directory per run; holds `checkpoints/` and a copy of the `recommender/`, if one is read, and
            training goes on from the last whole checkpoint in it. On a cluster, on storage that all nodes share.
        report: called after every epoch, in this process or, on Ray, in the controller's: it must pickle.
        callbacks: Ray Train callbacks, such as Tune's report callback; for num_workers of at least 1.

    Raises:
        UserError: the run directory holds a run of other settings, or `training.start_from` does not fit.
        FloatingPointError: the loss became infinite or not a number.
    """
    config = with_absolute_paths(config)
    run_dir = run_dir.absolute()
    preflight(run_dir, config, stages)  # here, because a mistake that shows in a worker looks like our failure
    run_dir.mkdir(parents=True, exist_ok=True)
    if stages.recommender is not None:
        shutil.copytree(stages.recommender, run_dir / "recommender", dirs_exist_ok=True)
    if config.training.num_workers == 0:
        from laser.training.plain import train_here

        return train_here(config, run_dir, report)
    from laser.training.ray_train import train_on_workers  # Ray and DeepSpeed only where they are used

    train_on_workers(config, run_dir, report, callbacks)
    outcome = read_outcome(run_dir)
    assert outcome is not None, "the workers ended well and left no result.json"
    return outcome


def preflight(run_dir: Path, config: Experiment, stages: SharedStages) -> None:
    """What is checked before workers and GPUs are asked for; config, data, LLM and MLflow are known to be there.

    Refuses a run directory whose weights come from other settings or data, first weights that do not fit, and a disk
    without room for the checkpoints.

    Raises:
        UserError: names the first setting that differs, the first weight, or the room that is missing.
    """
    _check_disk(run_dir, stages.checkpoint_bytes)
    checkpoint = latest_checkpoint(run_dir / "checkpoints")
    if checkpoint is not None:
        check_same_settings(checkpoint.state, dependent_settings(config, stages.fingerprint))
    elif config.training.start_from is not None:
        from laser.training.run.transfer import check_start  # it imports the models

        check_start(config, stages.recommender)


def _check_disk(run_dir: Path, checkpoint_bytes: int) -> None:
    place = next(folder for folder in (run_dir, *run_dir.absolute().parents) if folder.is_dir())
    held = sum(path.stat().st_size for path in run_dir.glob("checkpoints/*/*") if path.is_file())
    needed, free = KEPT_CHECKPOINTS * checkpoint_bytes - held, shutil.disk_usage(place).free
    if needed > free:
        raise UserError(
            f"output_dir: {place} has {free / 2**20:,.0f} MiB free and {KEPT_CHECKPOINTS} checkpoints take "
            f"{needed / 2**20:,.0f} more; free space or set output_dir to another disk"
        )


def run_tags(config: Experiment, stages: SharedStages) -> dict[str, str | int]:
    """What runs are found and grouped by: data, LLM, and what is most often compared."""
    return {
        "dataset": stages.dataset,
        "dataset_fingerprint": stages.fingerprint,
        "llm": config.llm.source,
        "K": config.mformer.num_experts,
        "L": config.mformer.num_virtual_tokens,
        "settings_key": settings_key(config, stages.fingerprint),
    }
