"""Recommenders on disk: `model.safetensors` beside `recommender.json`, which says how to build the model again."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from laser.config.recommenders import (
    Bert4RecConfig,
    EASEConfig,
    HybridConfig,
    ItemKNNConfig,
    PopularityConfig,
    RecommenderConfig,
    SASRecConfig,
    StackConfig,
    TextSASRecConfig,
)
from laser.errors import UserError
from laser.recommenders.base import FittedRecommender, SequentialRecommender, TrainedRecommender
from laser.recommenders.families.bert4rec import BERT4Rec
from laser.recommenders.families.ease import EASE
from laser.recommenders.families.hybrid import Hybrid
from laser.recommenders.families.item_knn import ItemKNN
from laser.recommenders.families.popularity import Popularity
from laser.recommenders.families.sasrec import SASRec
from laser.recommenders.families.stack import Stack
from laser.recommenders.families.text_sasrec import TextSASRec

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


def build_text_sasrec(config: TextSASRecConfig, num_items: int) -> TextSASRec:
    return TextSASRec(
        num_items=num_items,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        max_history=config.max_history,
        dropout=config.dropout,
        temperature=config.temperature,
        text_width=config.text_width,
    )


def build_popularity(config: PopularityConfig, num_items: int) -> Popularity:
    return Popularity(num_items, config.max_history)


def build_item_knn(config: ItemKNNConfig, num_items: int) -> ItemKNN:
    return ItemKNN(
        num_items=num_items,
        hidden_size=config.hidden_size,
        max_history=config.max_history,
        history_decay=config.history_decay,
        degree_exponent=config.degree_exponent,
        row_exponent=config.row_exponent,
    )


def build_ease(config: EASEConfig, num_items: int) -> EASE:
    return EASE(num_items, config.hidden_size, config.max_history, config.history_decay, config.l2)


def build_hybrid(config: HybridConfig, num_items: int) -> Hybrid:
    return Hybrid(
        num_items=num_items,
        hidden_size=config.hidden_size,
        max_history=config.max_history,
        history_decay=config.history_decay,
        degree_exponent=config.degree_exponent,
        row_exponent=config.row_exponent,
        count_scale=config.count_scale,
        text_weight=config.text_weight,
        text_width=config.text_width,
    )


def build_stack(config: StackConfig, num_items: int) -> Stack:
    fitted, trained = build_recommender(config.fitted, num_items), build_recommender(config.trained, num_items)
    assert isinstance(fitted, FittedRecommender) and isinstance(trained, TrainedRecommender)
    return Stack(fitted, trained, config.trained_weight)


RECOMMENDERS: dict[str, Callable[[Any, int], SequentialRecommender]] = {
    "bert4rec": build_bert4rec,
    "sasrec": build_sasrec,
    "text_sasrec": build_text_sasrec,
    "popularity": build_popularity,
    "item_knn": build_item_knn,
    "ease": build_ease,
    "hybrid": build_hybrid,
    "stack": build_stack,
}
"""`recommender.type` → builder. A new family is added here and to `RecommenderConfig`."""


def build_recommender(config: RecommenderConfig, num_items: int) -> SequentialRecommender:
    """An untrained model in training mode. Weights come from torch's global generator: the caller seeds it.

    A family that reads text (its config has a `text_source`) still needs the features: `model.read_text`.
    """
    return RECOMMENDERS[config.type](config, num_items)


def save_recommender(model: SequentialRecommender, config: RecommenderConfig, num_items: int, directory: Path) -> None:
    """Write the weights and the description into an existing directory; the caller renames it into place."""
    save_file({name: weight.contiguous().cpu() for name, weight in model.state_dict().items()}, directory / WEIGHTS)
    description = {"schema_version": SCHEMA_VERSION, "num_items": num_items, "config": config.model_dump(mode="json")}
    (directory / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")


def load_recommender(directory: Path) -> SequentialRecommender:
    """The frozen model on the CPU: eval mode, no gradients.

    Raises:
        UserError: there is no recommender in the directory, or one of another layout, or its files are damaged or
            are pickles, which are never read; names the file.
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
        if num_items > weights.stat().st_size:  # else a wrong number asks for any amount of memory
            raise ValueError(f"too small for {num_items} items")
        model = build_recommender(config, num_items)
        model.load_state_dict(load_file(weights))
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{weights}: not this recommender's weights ({error}); run jobs/pretrain.py anew") from error
    return model.eval().requires_grad_(False)


def weights_hash(directory: Path) -> str:
    """SHA-256 of the weights: what encodings depend on, wherever the recommender lies."""
    with (directory / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
