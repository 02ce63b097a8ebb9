"""Packages the winner of a sweep as a logged model of its run, registers it, and decides who is champion."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from laser.config.identity import stage_key
from laser.config.schema import Experiment
from laser.data.dataset import Dataset
from laser.data.selected import select_examples
from laser.evaluation.metrics import SELECTION_METRIC
from laser.serving.opening import packaged_run, run_dataset
from laser.serving.package import Package
from laser.storage.locks import exclusive
from laser.tracking.models import DataUsed, ModelForm, Version, give_alias, holder, log_model, register
from laser.tracking.run import DIGEST_CHARACTERS, Run, metric_name

logger = logging.getLogger(__name__)

CHAMPION = "champion"
VALIDATION, SCORE = "validation", metric_name(f"val/{SELECTION_METRIC}")
"""Tags of a version: what names the data that it was validated on, and its metric there."""
SOURCES = Path(__file__).resolve().parents[1]
CODE = Path(__file__).with_name("model.py")
REQUIRED = (
    "mlflow", "torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "scikit-learn", "pyarrow",
    "pandas", "pydantic", "PyYAML", "filelock", "huggingface_hub", "gguf", "tqdm", "accelerate",
)  # fmt: skip
"""Packages that an answer imports, pinned at the versions that are installed."""


@dataclass(frozen=True)
class Registered:
    """What a summary says of a registered model."""

    name: str
    version: str
    champion: bool
    """Whether it has the alias now."""
    reason: str
    """Why, or why not."""


def register_winner(run: Run | None, name: str | None, cache: Path) -> dict[str, Any] | None:
    """Register the model of a run, and make it champion if it is better on the same validation data.

    Returns what a summary says of it, `Registered` as plain data.

    Args:
        run: the best trial's; None if no trial ended well.
        name: of the registered model; None registers nothing.
        cache: the cache of all artifacts.

    Raises:
        UserError: the run has no checkpoint, or its data have changed since.
    """
    if run is None or name is None:
        return None
    cache = cache.expanduser().absolute()
    package, val = packaged_run(run, cache), run.figures("best/")
    dataset = run_dataset(package.config, cache, package.identity.fingerprint)
    tags = lineage(package, dataset) | {SCORE: f"{val[SELECTION_METRIC]:.6f}"}
    version = register(run.uri, name, logged(run, package, dataset, tags), run.run_id, tags)
    with exclusive(cache / "packages" / f"{CHAMPION}-{name}.lock"):  # two sweeps may end at once
        champion = holder(run.uri, name, CHAMPION)
        wins, reason = succeeds(version, champion)
        if wins:
            give_alias(run.uri, version, CHAMPION)
    is_champion = wins or (champion is not None and champion.number == version.number)
    state = f"is {CHAMPION} now" if wins else f"{'is' if is_champion else 'is not'} {CHAMPION}"
    logger.info("model %s, version %s, %s: %s", name, version.number, state, reason)
    return asdict(Registered(name, version.number, is_champion, reason))


def logged(run: Run, package: Package, dataset: Dataset, tags: Mapping[str, str]) -> str:
    """Log the package as a model of its run, and return the model's id."""
    data = DataUsed(dataset.name, dataset.fingerprint[:DIGEST_CHARACTERS])
    figures = {f"best/{metric}": value for metric, value in run.figures("best/").items()}
    figures |= {f"test/{metric}": value for metric, value in run.figures("test/").items()}
    return log_model(run, CODE, package.folder, SOURCES, model_form(dataset), requirements(), data, figures, tags)


def lineage(package: Package, dataset: Dataset) -> dict[str, str]:
    """Return the tags that say what a version was made of: data, recommender, LLM and commit."""
    identity = package.identity
    return {
        "dataset": identity.dataset,
        "dataset_fingerprint": identity.fingerprint,
        VALIDATION: validation_key(package.config, dataset),
        "recommender": identity.recommender,
        "llm": identity.llm_source,
        "llm_content": identity.llm_content,
        "commit": identity.commit,
    }


def validation_key(config: Experiment, dataset: Dataset) -> str:
    """Name the data that validation reads: equal for equal users and histories, so that scores compare."""
    return stage_key("validation", dataset.fingerprint, select_examples(dataset, config)["val"].digest())


def succeeds(version: Version, champion: Version | None) -> tuple[bool, str]:
    """Return whether a version becomes champion, and why or why not."""
    if champion is None:
        return True, "the first of its name"
    if champion.number == version.number:
        return False, "champion already"
    who = f"champion is version {champion.number}"
    if champion.tags.get(VALIDATION) != version.tags[VALIDATION]:
        return False, (
            f"{who}, validated on other data ({champion.tags.get('dataset')}, {champion.tags.get(VALIDATION)}; here "
            f"{version.tags['dataset']}, {version.tags[VALIDATION]}): their scores do not compare, so the alias stays"
        )
    before, now = (float(tags[SCORE]) for tags in (champion.tags, version.tags))
    what = f"validation {SELECTION_METRIC} {now:.4f} against {before:.4f} of version {champion.number} on the same data"
    return (True, what) if now > before else (False, f"{who}: {what}, which is no better")


def model_form(dataset: Dataset) -> ModelForm:
    """Return the signature of the packaged model, and two histories as an example."""
    raw_ids = [dataset.items.column("raw_id")[row].as_py() for row in range(min(3, dataset.num_items))]

    def texts(name: str) -> dict[str, object]:
        return {"name": name, "type": "array", "items": {"type": "string"}, "required": True}

    params = [
        {"name": "k", "type": "long", "default": 10, "shape": None},
        {"name": "mask_history", "type": "boolean", "default": True, "shape": None},
    ]
    scores = {**texts("scores"), "items": {"type": "float"}}
    return ModelForm(
        inputs=json.dumps([texts("history")]),
        outputs=json.dumps([texts("items"), texts("titles"), scores, texts("unknown")]),
        params=json.dumps(params),
        example={"history": [raw_ids, raw_ids[:1]]},
    )


def requirements() -> list[str]:
    """Return the pinned packages that an answer imports. The package itself travels with the model, as code."""
    return [f"{name}=={version(name)}" for name in REQUIRED]
