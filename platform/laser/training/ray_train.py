"""Runs the training loop on Ray Train workers; no other module of this room imports Ray."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, UserCallback, get_context
from ray.train import report as report_to_controller
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from laser.cli.quiet import name_accelerator, quieten
from laser.cluster.join import cluster
from laser.cluster.node_figures import node_figures, of_nodes
from laser.cluster.ray_private import leave_interrupts_alone
from laser.config.compose import with_overrides
from laser.config.schema import Experiment
from laser.tracking.interface import EPOCH, Report
from laser.training.artifacts import Artifacts

logger = logging.getLogger(__name__)


class _ReportToDriver(UserCallback):
    """Passes the first worker's metrics to the caller's `report`, in the controller's process."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        values = {**of_nodes(metrics), **metrics[0]}
        self.report(values, int(values.pop(EPOCH)))


def train_on_workers(
    config: Experiment, artifacts: Artifacts, run_dir: Path, report: Report, callbacks: Sequence[Any] = ()
) -> None:
    """Train on `training.num_workers` Ray Train workers, which write the outcome to `run_dir/result.json`."""
    training, waits = config.training, [callback.wait for callback in callbacks if callback.wait is not None]
    trainer = TorchTrainer(
        _worker,
        train_loop_config=dict(config=config.model_dump_json(), artifacts=artifacts, run_dir=run_dir, waits=waits),
        torch_config=TorchConfig(backend="nccl" if training.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=(training.min_workers, training.num_workers) if training.min_workers else training.num_workers,
            elastic_resize_monitor_interval_s=training.resize_seconds,
            use_gpu=training.use_gpu,
            resources_per_worker={"CPU": training.cpus_per_worker} | ({"GPU": 1} if training.use_gpu else {}),
        ),
        run_config=RunConfig(
            name=run_dir.name,
            storage_path=str(run_dir / "ray"),
            failure_config=FailureConfig(max_failures=training.max_failures),
            callbacks=[_ReportToDriver(report), *callbacks],
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    leave_interrupts_alone(trainer)
    with cluster():
        trainer.fit()


def _worker(settings: dict[str, Any]) -> None:
    """Run one Ray Train worker: open the artifacts, shard the model, and train in step with the other workers."""
    config = Experiment.model_validate_json(settings["config"])
    # Elastic training may have fewer workers than the setting asks for.
    config = with_overrides(config, {"training.num_workers": get_context().get_world_size()})
    training = config.training
    logging.getLogger().setLevel(logging.WARNING)  # Ray Train has given it handlers, and logs each report
    quieten()
    name_accelerator(training.use_gpu)
    if get_context().get_world_rank() == 0:
        logging.getLogger("laser").setLevel(logging.INFO)
    torch.set_num_threads(max(1, int(training.cpus_per_worker)))
    from laser.engine.deepspeed import DeepSpeedEngine, sharded_llm
    from laser.engine.guards import memory_advice
    from laser.llm.loading import choose_dtype
    from laser.training.inputs import open_inputs
    from laser.training.model import around, automatic_level, whole_laser
    from laser.training.stages import TwoStageTraining

    device, artifacts = get_device(), settings["artifacts"]
    inputs = open_inputs(config, artifacts)
    if training.zero_stage == "auto":
        level = automatic_level(config, inputs, device, get_context().get_local_world_size())
        config = with_overrides(config, {"training.zero_stage": level})
        training = config.training

    def report(metrics: Mapping[str, float], epoch: int) -> None:
        report_to_controller({**metrics, **node.take(), EPOCH: epoch})
        for wait in settings["waits"]:
            wait(epoch)

    with memory_advice(training), node_figures() as node:
        if training.zero_stage == 3:
            dtype = choose_dtype(config.loaded_llm.dtype, device)
            laser = around(sharded_llm(artifacts.llm_directory, dtype, config.loaded_llm, training), config, artifacts)
        else:
            laser = whole_laser(config, artifacts, device)
        engine = DeepSpeedEngine(laser, training, device)
        TwoStageTraining(engine, inputs, config, settings["run_dir"], report).run()
