"""Names of runs and of cached artifacts, made of the settings and the content that they depend on."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from laser.config.compose import flatten
from laser.config.families.recommenders import RecommenderConfig
from laser.config.fields import marked
from laser.config.marks import HOW_IT_RUNS, LABEL
from laser.config.schema import Experiment
from laser.config.section import Section


def as_experiment(config: Experiment) -> Experiment:
    """Return the experiment alone, without the sections that a sweep or another job has beside it."""
    return Experiment.model_validate_json(config.model_dump_json(include=set(Experiment.model_fields)))


def settings_key(config: Experiment, fingerprint: str) -> str:
    """Name what a training run gives: equal for equal results, wherever and however it runs.

    It hashes the settings that differ from the schema's defaults, but for those marked HOW_IT_RUNS or LABEL. The
    dataset's fingerprint stands for the section `data`, and the weights' hash for a checkpoint in
    `training.start_from`. Runs carry the key as a tag, so that a result is found again.
    """
    changed = changed_settings(as_experiment(config))
    left_out = marked(Experiment, HOW_IT_RUNS, LABEL)
    kept = {key: value for key, value in changed.items() if key not in left_out}
    checksums = Path(str(kept.get("training.start_from"))) / "checksums.json"
    if checksums.is_file():
        kept["training.start_from"] = json.loads(checksums.read_text())["trainable.safetensors"]
    return stage_key("laser", {key: value for key, value in kept.items() if not key.startswith("data.")}, fingerprint)


def recommender_key(config: RecommenderConfig, fingerprint: str) -> str:
    """Name what the training of an ID-based recommender gives: equal for equal results."""
    return stage_key(config.type, changed_settings(config), fingerprint)


def recommender_tags(config: RecommenderConfig, dataset: str, fingerprint: str) -> dict[str, str]:
    """Return the tags by which a recommender's run is found and grouped."""
    return {
        "dataset": dataset,
        "dataset_fingerprint": fingerprint,
        "recommender": config.type,
        "settings_key": recommender_key(config, fingerprint),
    }


def stage_key(name: str, *parts: Any) -> str:
    """Name a cached artifact, such as `bert4rec-3fa9c1d2e0`: the same name for the same JSON-able parts."""
    plain = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts]
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    return f"{name}-{digest[:10]}"


def changed_settings(section: BaseModel) -> dict[str, str | int | float | bool | None]:
    """Return the flattened settings that differ from the schema's defaults, and the `type` of every family.

    Settings at their defaults are left out. The schema can then gain a setting whose default changes nothing, and
    stored results are still found.
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


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any], cls: type[BaseModel]) -> str | None:
    """Name the first setting in which two flattened sets differ; None where they agree.

    A setting that a set lacks counts as its default: what was stored before the schema gained it did not have it.

    Args:
        before: stored settings.
        now: present settings.
        cls: the schema; all of its settings have defaults.
    """
    defaults = flatten(cls())
    for key in sorted({*before, *now}):
        if before.get(key, defaults.get(key)) != now.get(key, defaults.get(key)):
            return key
    return None
