"""The parts of suite gpu that train Laser to the end, with the settings of whole experiments.

The experiments take the suite's data, LLM, folders and device. A training whose time is over ends with its epoch; what
was validated until then is kept.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from laser.config.compose import load_config, with_overrides
from laser.config.families.recommenders import TrainedSection
from laser.config.jobs import BenchmarkJob
from laser.config.paths import with_absolute_paths
from laser.config.schema import Experiment
from laser.training.prepare import make_artifacts
from laser.training.run.directory import run_directory
from laser.training.run.history import read_history
from laser.training.train import preflight, train_laser

logger = logging.getLogger(__name__)

TAKEN = (
    "cache_dir", "data.path", "data.format", "llm.source", "llm.cache_mib", "training.use_gpu", "training.capture"
)  # fmt: skip
"""Settings that the experiments take from the job."""
RESERVED = 0.1
"""Share of the suite's time that a training leaves to each experiment that its seed has still to train."""
SMALL_INPUTS = {
    "training.train_users": 16,
    "training.validation_users": 16,
    "llm.compile": False,
    "llm.num_layers": 2,
    "prompt.max_history_items": 5,
    "prompt.max_item_tokens": 16,
}
"""Settings of the small scale, which only tries the code."""
SMALL = SMALL_INPUTS | {
    "training.stage1_epochs": 1,
    "training.stage2_epochs": 1,
    "warm_start.epochs": 0,
    "head.standardise": False,
    "mformer.num_experts": 2,
    "mformer.num_virtual_tokens": 2,
}
"""And those of a training."""


class _TimeIsUp(Exception):
    """Ends a training after an epoch."""


def plan_trainings(job: BenchmarkJob, seconds_left: Callable[[], float]) -> dict[str, Callable[[], Mapping[str, Any]]]:
    """Return name → training: every experiment with the first seed, then with the next ones."""
    plan: dict[str, Callable[[], Mapping[str, Any]]] = {}
    for seed in job.benchmark.gpu_seeds:
        paths = job.benchmark.gpu_experiments
        for number, path in enumerate(paths):
            reserved = RESERVED * job.benchmark.gpu_seconds * (len(paths) - number - 1)
            plan[f"train {Path(path).stem} seed {seed}"] = partial(_train, job, path, seed, reserved, seconds_left)
    return plan


def experiment(job: BenchmarkJob, path: str, seed: int) -> Experiment:
    """Return one experiment as the suite trains it.

    Raises:
        UserError: there is no such file, or it does not fit the job's settings.
    """
    config = load_config(Experiment, [f"config={path}"], None)
    overrides: dict[str, Any] = {}
    for key in TAKEN:
        section, _, name = key.rpartition(".")
        overrides[key] = getattr(getattr(job, section) if section else job, name)
    size = max(config.training.batch_size, job.benchmark.gpu_batch_size)
    overrides |= {
        "name": f"gpu-{Path(path).stem}-seed{seed}",
        "output_dir": f"{job.output_dir}/gpu",
        "training.num_workers": 0,
        "training.seed": seed,
        "training.batch_size": size,
        "training.micro_batch_size": job.training.micro_batch_size,
        "training.inference_batch_tokens": job.training.inference_batch_tokens,
    }
    if job.benchmark.gpu_scale == "small":
        overrides |= SMALL
        if isinstance(config.recommender, TrainedSection):
            overrides |= {"recommender.max_epochs": 1}
    return with_overrides(config, overrides)


def _train(
    job: BenchmarkJob, path: str, seed: int, reserved: float, seconds_left: Callable[[], float]
) -> dict[str, Any]:
    """Train one experiment, from its artifacts to its test, while more than the reserved seconds are left."""
    config = with_absolute_paths(experiment(job, path, seed))
    artifacts = make_artifacts(config)
    run_dir = run_directory(Path(config.output_dir), config.name, resume=False)
    preflight(run_dir, config, artifacts)
    training = config.training
    figures: dict[str, Any] = {
        "batch_size": training.batch_size,
        "epochs_planned": training.stage0_epochs + training.stage1_epochs + training.stage2_epochs,
    }

    def report(metrics: Mapping[str, float], epoch: int) -> None:
        logger.info("%s seed %d epoch %d: %s", path, seed, epoch, metrics.get("val/ndcg@10"))
        if seconds_left() <= reserved:
            raise _TimeIsUp

    try:
        outcome = train_laser(config, artifacts, run_dir, report)
    except _TimeIsUp:
        rows = read_history(run_dir).rows
        best = max(row["val/ndcg@10"] for row in rows)
        return figures | {"val_ndcg@10": best, "epochs": len(rows) - 1, "cut": True, "course": _course(rows)}
    return figures | {
        "val_ndcg@10": outcome.val["ndcg@10"],
        "test_ndcg@10": (outcome.test or {}).get("ndcg@10"),
        "untrained_val_ndcg@10": outcome.untrained_val["ndcg@10"],
        "tokens_per_second": outcome.tokens_per_second,
        "training_seconds": outcome.seconds,
        "epochs": outcome.epochs,
        "val": outcome.val,
        "test": outcome.test,
        "course": _course(read_history(run_dir).rows),
    }


def _course(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return of each epoch its loss, validation NDCG@10 and time."""
    names = ("epoch", "loss", "val/ndcg@10", "train_seconds")
    return [{name: round(row[name], 5) for name in names if name in row} for row in rows]
