"""Laser in this process alone, by plain torch: no Ray, no DeepSpeed."""

from pathlib import Path

import torch

from laser.config.schema import Experiment
from laser.models.laser import Laser, build_laser
from laser.models.llm import choose_dtype, load_llm
from laser.training.engine import PlainEngine
from laser.training.guards import memory_advice
from laser.training.inputs import Inputs, prepare_inputs
from laser.training.outcome import Outcome, Report
from laser.training.stages import TwoStageTraining


def build_plain(config: Experiment, inputs: Inputs, device: torch.device) -> Laser:
    """The model whole on one device."""
    llm = load_llm(inputs.llm_directory, choose_dtype(config.llm.dtype, device), config.llm, device)
    laser = build_laser(config, llm, inputs.recommender_width, inputs.embedding_std, inputs.first_token_H)
    if config.training.gradient_checkpointing:
        laser.enable_gradient_checkpointing()
    return laser


def train_here(config: Experiment, run_dir: Path, report: Report) -> Outcome:
    """Both stages, selection and test; see `laser.training.train.train_laser`."""
    inputs = prepare_inputs(config)
    device = torch.device("cuda" if config.training.use_gpu else "cpu")
    with memory_advice(config.training):
        engine = PlainEngine(build_plain(config, inputs, device), config.training, device)
        return TwoStageTraining(engine, inputs, config, run_dir, report).run()
