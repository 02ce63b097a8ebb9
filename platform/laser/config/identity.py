"""What a result depends on: names of cached artifacts and of runs, made of settings and content."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from laser.config.recommenders import RecommenderConfig
from laser.config.schema import Experiment
from laser.config.section import Section

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


def stage_key(name: str, *parts: Any) -> str:
    """A name for a cached stage: the same for the same JSON-able parts, such as `bert4rec-3fa9c1d2e0`."""
    plain = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts]
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    return f"{name}-{digest[:10]}"


def changed_settings(section: BaseModel) -> dict[str, str | int | float | bool | None]:
    """The flattened settings that differ from the schema's defaults, and the `type` of every family.

    What stays at its default is left out, so that a setting that the schema gains later, with a default that changes
    nothing, does not turn stored results into those of other settings.
    """
    changed: dict[str, str | int | float | bool | None] = {}

    def visit(prefix: str, section: BaseModel) -> None:
        for name, field in type(section).model_fields.items():
            value = getattr(section, name)
            if isinstance(value, Section) and value.neutral:
                continue
            if isinstance(value, BaseModel):
                visit(f"{prefix}{name}.", value)
            elif name == "type" or value != field.default:
                plain = value is None or isinstance(value, str | int | float | bool)
                changed[prefix + name] = value if plain else json.dumps(value)

    visit("", section)
    return changed
