"""Train Laser once: build the model and drive it through both stages, in this process or on Ray Train workers."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from laser.config.schema import Experiment
from laser.models.laser import Laser, build_laser
from laser.models.llm import choose_dtype, load_llm
from laser.training.checkpoint import check_same_settings, latest_checkpoint
from laser.training.engine import PlainEngine
from laser.training.inputs import Inputs, with_absolute_paths
from laser.training.outcome import Outcome, read_outcome
from laser.training.stages import Report, TwoStageTraining, dependent_settings


def train_laser(
    config: Experiment, inputs: Inputs, run_dir: Path, report: Report, callbacks: Sequence[Any] = ()
) -> Outcome:
    """Train one experiment and return its outcome, which also stands in `run_dir/result.json`.

    With `training.num_workers` 0 it trains in this process with plain torch; otherwise on Ray Train workers with
    DeepSpeed, which open the shared inputs for themselves.

    Args:
        config: the experiment.
        inputs: its shared stages (`prepare_inputs`).
        run_dir: one directory per run; holds `checkpoints/` and a copy of the `recommender/`, and training goes on
            from the last whole checkpoint in it. On a cluster, on storage that all nodes share.
        report: called after every epoch, in this process or, on Ray, in the controller's: it must pickle.
        callbacks: Ray Train callbacks, such as Tune's report callback; for num_workers of at least 1.

    Raises:
        UserError: the run directory holds a run of other settings.
        FloatingPointError: the loss became infinite or not a number.
    """
    config = with_absolute_paths(config)
    run_dir = run_dir.absolute()
    check_resumable(run_dir, config, inputs)  # here, because a mistake that shows in a worker looks like our failure
    run_dir.mkdir(parents=True, exist_ok=True)
    shutil.copytree(inputs.recommender_directory, run_dir / "recommender", dirs_exist_ok=True)
    if config.training.num_workers == 0:
        device = torch.device("cuda" if config.training.use_gpu else "cpu")
        engine = PlainEngine(build_plain(config, inputs, device), config.training, device)
        return TwoStageTraining(engine, inputs, config, run_dir, report).run()
    from laser.training.ray_train import train_on_workers  # Ray and DeepSpeed only where they are used

    train_on_workers(config, run_dir, report, callbacks)
    outcome = read_outcome(run_dir)
    assert outcome is not None, "the workers ended well and left no result.json"
    return outcome


def check_resumable(run_dir: Path, config: Experiment, inputs: Inputs) -> None:
    """Refuse a run directory whose weights come from other settings or data.

    Raises:
        UserError: names the first setting that differs.
    """
    checkpoint = latest_checkpoint(run_dir / "checkpoints")
    if checkpoint is not None:
        check_same_settings(checkpoint.state, dependent_settings(config, inputs.dataset.fingerprint))


def run_tags(config: Experiment, inputs: Inputs) -> dict[str, str | int]:
    """What runs are found and grouped by: data, LLM, and what is most often compared."""
    return {
        "dataset": inputs.dataset.name,
        "dataset_fingerprint": inputs.dataset.fingerprint,
        "llm": config.llm.source,
        "K": config.mformer.num_experts,
        "L": config.mformer.num_virtual_tokens,
    }


def build_plain(config: Experiment, inputs: Inputs, device: torch.device) -> Laser:
    """The model whole on one device."""
    dtype = choose_dtype(config.llm.dtype, device)
    llm = load_llm(inputs.llm_directory, dtype, config.llm, device)
    laser = build_laser(config, llm, inputs.recommender_width, inputs.embedding_std)
    if config.training.gradient_checkpointing:
        laser.enable_gradient_checkpointing()
    return laser
