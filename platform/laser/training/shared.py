"""What processes that only start a training know of the stages that runs share: enough to name and check them.

Opening them (`laser.training.inputs`) imports the models and takes seconds; a sweep starts such a process a trial.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from laser.config.compose import changed_settings, stage_key, with_overrides
from laser.config.recommenders import RecommenderConfig
from laser.config.schema import Experiment

HOW_IT_RUNS = (
    "cache_dir",
    "output_dir",
    "resume",
    "data.memory_mib",
    "llm.implementation",
    "llm.compile",
    "tracking.uri",
    "tracking.experiment",
    "training.num_workers",
    "training.min_workers",
    "training.resize_seconds",
    "training.zero_stage",
    "training.cpus_per_worker",
    "training.use_gpu",
    "training.max_failures",
    "training.max_loss_growth",
    "training.micro_batch_size",
    "training.inference_batch_tokens",
    "training.gradient_checkpointing",
)
"""Settings of where and how an experiment runs, which change no result: they may differ when it goes on."""


def as_experiment(config: Experiment) -> Experiment:
    """The experiment alone, without the sections that a sweep or another job has beside it."""
    return Experiment.model_validate_json(config.model_dump_json(include=set(Experiment.model_fields)))


def settings_key(config: Experiment, fingerprint: str) -> str:
    """A name for what a training run gives: equal for equal results, wherever and however it runs.

    It hashes the settings that differ from the schema's defaults, without those of HOW_IT_RUNS; the dataset's
    fingerprint stands for the section `data`, and the weights' hash for a checkpoint in `training.start_from`. Runs
    carry it as a tag, so that a result is found again.
    """
    changed = changed_settings(as_experiment(config))
    kept = {key: value for key, value in changed.items() if key not in (*HOW_IT_RUNS, "name")}
    checksums = Path(str(kept.get("training.start_from"))) / "checksums.json"
    if checksums.is_file():
        kept["training.start_from"] = json.loads(checksums.read_text())["trainable.safetensors"]
    return stage_key("laser", {key: value for key, value in kept.items() if not key.startswith("data.")}, fingerprint)


def recommender_key(config: RecommenderConfig, fingerprint: str) -> str:
    """The same for the training of an ID-based recommender."""
    return stage_key(config.type, changed_settings(config), fingerprint)


def recommender_tags(config: RecommenderConfig, dataset: str, fingerprint: str) -> dict[str, str]:
    """What a recommender's run is found and grouped by; the dataset by its name and fingerprint."""
    return {
        "dataset": dataset,
        "dataset_fingerprint": fingerprint,
        "recommender": config.type,
        "settings_key": recommender_key(config, fingerprint),
    }


@dataclass(frozen=True)
class SharedStages:
    """Stages that are made."""

    dataset: str
    """The dataset's name."""
    fingerprint: str
    """The dataset's content hash."""
    recommender: Path | None
    """Directory of the trained ID-based recommender; None where nothing reads one."""
    checkpoint_bytes: int = 0
    """Size of a checkpoint, counted on the model's shapes; 0 where it was not counted."""


def make_stages(config: Experiment) -> SharedStages:
    """Make the shared stages that are missing.

    Raises:
        UserError: bad data, settings or LLM source, or a dataset that leaves nothing to train or validate on.
    """
    from laser.training.inputs import prepare_inputs
    from laser.training.sharding import checkpoint_size

    inputs = prepare_inputs(config)
    return replace(inputs.stages, checkpoint_bytes=checkpoint_size(config, inputs))


def with_absolute_paths(config: Experiment) -> Experiment:
    """The same experiment with its local paths absolute, for processes that start in another directory."""
    overrides: dict[str, str] = {
        "cache_dir": str(Path(config.cache_dir).expanduser().absolute()),
        "output_dir": str(Path(config.output_dir).expanduser().absolute()),
    }
    named = {"data.path": config.data.path, "llm.source": config.llm.source}
    if config.training.start_from is not None:
        named["training.start_from"] = config.training.start_from
    for key, value in named.items():
        local = Path(value).expanduser()
        if not value.startswith("pypi:") and local.exists():
            overrides[key] = str(local.absolute())
    return with_overrides(config, overrides)
