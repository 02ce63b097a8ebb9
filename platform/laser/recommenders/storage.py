"""Recommenders on disk: `model.safetensors` beside `recommender.json`, which says how to build the model."""

import hashlib
import json
from pathlib import Path

from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from laser.config.families.recommenders import FamilySection, RecommenderConfig
from laser.errors import UserError
from laser.recommenders.base import SequentialRecommender
from laser.recommenders.registry import build_recommender
from laser.storage.content import file_hash

SCHEMA_VERSION = 1
WEIGHTS, DESCRIPTION = "model.safetensors", "recommender.json"


def save_recommender(model: SequentialRecommender, config: FamilySection, num_items: int, directory: Path) -> None:
    """Write the weights and the description into an existing directory; the caller renames it into place."""
    save_file({name: weight.contiguous().cpu() for name, weight in model.state_dict().items()}, directory / WEIGHTS)
    description = {"schema_version": SCHEMA_VERSION, "num_items": num_items, "config": config.model_dump(mode="json")}
    (directory / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")


def load_recommender(directory: Path) -> SequentialRecommender:
    """Load the frozen model on the CPU, in eval mode and without gradients.

    Raises:
        UserError: there is no recommender in the directory, it has another layout, or its files are damaged or
            pickles, which are never read. The message names the file.
    """
    path = directory / DESCRIPTION
    if not path.is_file():
        raise UserError(f"{path}: no such file, so this is no trained recommender; run jobs/pretrain.py")
    try:
        description = json.loads(path.read_text())
        layout, num_items = int(description["schema_version"]), int(description["num_items"])
        config: RecommenderConfig | None = None
        if layout == SCHEMA_VERSION:
            config = TypeAdapter(RecommenderConfig).validate_json(json.dumps(description["config"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # ValueError: no text, no JSON, or no settings
        raise UserError(f"{path}: not as save_recommender writes it ({error}); run jobs/pretrain.py anew") from error
    if config is None:
        raise UserError(f"{path}: layout {layout}, not {SCHEMA_VERSION}; run jobs/pretrain.py anew")
    weights = directory / WEIGHTS
    try:
        if num_items > weights.stat().st_size:  # otherwise a wrong number asks for any amount of memory
            raise ValueError(f"too small for {num_items} items")
        model = build_recommender(config, num_items)
        model.load_state_dict(load_file(weights))
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{weights}: not this recommender's weights ({error}); run jobs/pretrain.py anew") from error
    return model.eval().requires_grad_(False)


def content_hash(directory: Path) -> str:
    """Return a hash of weights and settings. Encodings depend on it, and not on where the recommender lies.

    The settings belong to it: recommenders with equal weights may read histories of unequal length.
    """
    settings = json.loads((directory / DESCRIPTION).read_text())["config"]
    return hashlib.sha256((file_hash(directory / WEIGHTS) + json.dumps(settings, sort_keys=True)).encode()).hexdigest()
