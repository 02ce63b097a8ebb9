"""Laser in this process alone, by plain torch: no Ray, no DeepSpeed."""

from pathlib import Path

import torch

from laser.config.schema import Experiment
from laser.engine.plain import PlainEngine
from laser.tracking.interface import Report
from laser.training.guards import memory_advice
from laser.training.inputs import prepare_inputs
from laser.training.model import build_plain
from laser.training.run.outcome import Outcome
from laser.training.stages import TwoStageTraining


def train_here(config: Experiment, run_dir: Path, report: Report) -> Outcome:
    """Both stages, selection and test; see `laser.training.train.train_laser`."""
    inputs = prepare_inputs(config)
    device = torch.device("cuda" if config.training.use_gpu else "cpu")
    with memory_advice(config.training):
        engine = PlainEngine(build_plain(config, inputs, device), config.training, device)
        return TwoStageTraining(engine, inputs, config, run_dir, report).run()
