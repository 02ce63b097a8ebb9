"""Recommenders on disk: `model.safetensors` beside `recommender.json`, which says how to build the model again."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from laser.config.errors import UserError
from laser.config.schema import Bert4RecConfig, RecommenderConfig, SASRecConfig
from laser.recommenders.base import SequentialRecommender
from laser.recommenders.bert4rec import BERT4Rec
from laser.recommenders.sasrec import SASRec

SCHEMA_VERSION = 1
WEIGHTS, DESCRIPTION = "model.safetensors", "recommender.json"


def build_bert4rec(config: Bert4RecConfig, num_items: int) -> BERT4Rec:
    return BERT4Rec(
        num_items=num_items,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        max_history=config.max_history,
        dropout=config.dropout,
        mask_probability=config.mask_probability,
        last_item_probability=config.last_item_probability,
    )


def build_sasrec(config: SASRecConfig, num_items: int) -> SASRec:
    return SASRec(
        num_items=num_items,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        max_history=config.max_history,
        dropout=config.dropout,
    )


RECOMMENDERS: dict[str, Callable[[Any, int], SequentialRecommender]] = {
    "bert4rec": build_bert4rec,
    "sasrec": build_sasrec,
}
"""`recommender.type` → builder. A new family is added here and to `RecommenderConfig`."""


def build_recommender(config: RecommenderConfig, num_items: int) -> SequentialRecommender:
    """An untrained model in training mode. Weights come from torch's global generator: the caller seeds it."""
    return RECOMMENDERS[config.type](config, num_items)


def save_recommender(model: SequentialRecommender, config: RecommenderConfig, num_items: int, directory: Path) -> None:
    """Write the weights and the description into an existing directory; the caller renames it into place."""
    save_file({name: weight.contiguous().cpu() for name, weight in model.state_dict().items()}, directory / WEIGHTS)
    description = {"schema_version": SCHEMA_VERSION, "num_items": num_items, "config": config.model_dump(mode="json")}
    (directory / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")


def load_recommender(directory: Path) -> SequentialRecommender:
    """The frozen model on the CPU: eval mode, no gradients.

    Raises:
        UserError: there is no recommender in the directory, or one of another layout.
    """
    path = directory / DESCRIPTION
    if not path.is_file():
        raise UserError(f"{path}: no such file, so this is no trained recommender; run jobs/pretrain.py")
    description = json.loads(path.read_text())
    if description["schema_version"] != SCHEMA_VERSION:
        raise UserError(
            f"{path}: layout {description['schema_version']}, not {SCHEMA_VERSION}; run jobs/pretrain.py anew"
        )
    config: RecommenderConfig = TypeAdapter(RecommenderConfig).validate_json(json.dumps(description["config"]))
    model = build_recommender(config, description["num_items"])
    model.load_state_dict(load_file(directory / WEIGHTS))
    return model.eval().requires_grad_(False)


def weights_hash(directory: Path) -> str:
    """SHA-256 of the weights: what encodings depend on, wherever the recommender lies."""
    with (directory / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
