"""Train Laser once: open the shared inputs, build the model, drive it through both stages, here or on Ray workers."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from laser.config.errors import UserError
from laser.config.schema import Experiment
from laser.models.laser import Laser, build_laser
from laser.models.llm import choose_dtype, load_llm
from laser.training.engine import PlainEngine
from laser.training.inputs import Inputs, prepare_inputs, with_absolute_paths
from laser.training.stages import Outcome, Report, TwoStageTraining

logger = logging.getLogger(__name__)


def train_laser(config: Experiment, run_dir: Path, report: Report, callbacks: Sequence[Any] = ()) -> Outcome:
    """Train one experiment and return its outcome, which also stands in `run_dir/result.json`.

    With `training.num_workers` 0 it trains in this process with plain torch; otherwise on Ray Train workers with
    DeepSpeed.

    Args:
        config: the experiment.
        run_dir: one directory per run; holds `checkpoints/`, and training goes on from the last whole one in it. On a
            cluster, on storage that all nodes share.
        report: called after every epoch, in this process or, on Ray, in the controller's: it must pickle.
        callbacks: Ray Train callbacks, such as Tune's report callback; for num_workers of at least 1.

    Raises:
        UserError: bad data, settings or LLM source.
        FloatingPointError: the loss became infinite or not a number.
    """
    config = with_absolute_paths(config)
    run_dir = run_dir.absolute()
    run_dir.mkdir(parents=True, exist_ok=True)
    inputs = prepare_inputs(config)  # before any worker starts: mistakes show here, and workers find everything made
    check_examples(inputs, config)
    if config.training.num_workers == 0:
        device = torch.device("cuda" if config.training.use_gpu else "cpu")
        engine = PlainEngine(build_plain(config, inputs, device), config.training, device)
        return TwoStageTraining(engine, inputs, config, run_dir, report).run()
    from laser.training.ray_train import train_on_workers  # Ray and DeepSpeed only where they are used

    train_on_workers(config, run_dir, report, callbacks)
    return Outcome(**json.loads((run_dir / "result.json").read_text()))


def build_plain(config: Experiment, inputs: Inputs, device: torch.device) -> Laser:
    """The model whole on one device."""
    dtype = choose_dtype(config.llm.dtype, device)
    llm = load_llm(inputs.llm_directory, dtype, config.llm.num_layers, device, config.llm.trust_remote_code)
    laser = build_laser(config, llm, inputs.recommender_width, inputs.embedding_std)
    if config.training.gradient_checkpointing:
        laser.enable_gradient_checkpointing()
    return laser


def check_examples(inputs: Inputs, config: Experiment) -> None:
    """Refuse a dataset that leaves nothing to train or validate on."""
    for split, histories in (("training", inputs.train), ("validation", inputs.val)):
        if not len(histories):
            raise UserError(
                f"data.path: {config.data.path} has no {split} example: users need at least 3 interactions "
                "(4 to train on); lower data.k_core or data.min_rating, or take more data"
            )
