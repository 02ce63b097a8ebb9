"""Trains Laser in this process with plain torch, without Ray and DeepSpeed."""

from collections.abc import Mapping
from pathlib import Path

import torch

from laser.cluster.node_figures import node_figures
from laser.config.schema import Experiment
from laser.engine.guards import memory_advice
from laser.engine.plain import PlainEngine
from laser.tracking.interface import Report
from laser.training.artifacts import Artifacts
from laser.training.inputs import open_inputs
from laser.training.model import whole_laser
from laser.training.run.outcome import Outcome
from laser.training.stages import TwoStageTraining


def train_here(config: Experiment, artifacts: Artifacts, run_dir: Path, report: Report) -> Outcome:
    """Train all stages, select the best epoch and test it; see `laser.training.train.train_laser`."""
    inputs = open_inputs(config, artifacts)
    device = torch.device("cuda" if config.training.use_gpu else "cpu")
    with memory_advice(config.training), node_figures() as node:
        engine = PlainEngine(whole_laser(config, artifacts, device), config.training, device)

        def report_with_node(metrics: Mapping[str, float], epoch: int) -> None:
            report({**metrics, **node.take()}, epoch)

        return TwoStageTraining(engine, inputs, config, run_dir, report_with_node).run()
