"""How well new items are recommended: a share of the items is left out of the data, and joins the ranking by its text.

The model is trained on the data without these items. Then the users whose test item is one of them are ranked over all
items, the known and the new ones. Beside the model stand popularity, which has never seen a new item, and the cosine of
text features without any training. No recommender of ids has a row for a new item.

Shape suffixes: B users, I items, H LLM width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from laser.config.identity import stage_key
from laser.config.schema import DataConfig, Experiment
from laser.data.dataset import Dataset
from laser.errors import UserError
from laser.evaluation.metrics import masked_name, ranking_metrics
from laser.evaluation.ranking import ranks, ranks_without_histories, user_ranks
from laser.recommenders.text import whitened
from laser.recommenders.text_features import item_features
from laser.serving.answerer import Answerer
from laser.serving.catalogue import TEXT_WIDTH
from laser.storage.cache import make_once

HISTORY_DECAY = 0.5
"""Weight of an item of a history relative to the one after it, in the text cosine; that of the hybrid on validation
(docs/laboratory.md)."""
Histories = list[NDArray[np.int32]]


@dataclass(frozen=True)
class ColdData:
    """Data without some items, and these items."""

    folder: Path
    """Tables of interactions and items, in the layout `pairs`."""
    new_items: Path
    """Table of the items that were left out."""
    cold: frozenset[str]
    """Their raw ids."""


def leave_items_out(dataset: Dataset, fraction: float, seed: int, cache: Path) -> ColdData:
    """Write the data without a random share of the items, and with no interaction of theirs, once into the cache."""
    num_cold = max(1, round(fraction * dataset.num_items))
    cold = np.zeros(dataset.num_items, np.bool_)
    cold[np.random.default_rng(seed).permutation(dataset.num_items)[:num_cold]] = True
    place = cache / "cold" / stage_key("items", 1, dataset.fingerprint, num_cold, seed)
    items = dataset.items.drop_columns(["item_id"]).rename_columns(["item", *dataset.items.column_names[2:]])

    def make(aside: Path) -> None:
        (aside / "known").mkdir(parents=True)
        lengths = np.diff(dataset.offsets)
        kept = ~cold[dataset.item_ids]
        users = pa.array(dataset.user_raw_ids).take(pa.array(np.repeat(np.arange(dataset.num_users), lengths)[kept]))
        columns = {
            "user": users,
            "item": items.column("item").take(pa.array(dataset.item_ids[kept])),
            "timestamp": pa.array(np.arange(len(dataset.item_ids))[kept]),  # their order is all that counts
        }
        pq.write_table(pa.table(columns), aside / "known" / "interactions.parquet")
        pq.write_table(items.filter(pa.array(~cold)), aside / "known" / "items.parquet")
        pq.write_table(items.filter(pa.array(cold)), aside / "new_items.parquet")

    make_once(place, make)
    raw_ids = items.column("item").filter(pa.array(cold)).to_pylist()
    return ColdData(place / "known", place / "new_items.parquet", frozenset(raw_ids))


def without_items(config: Experiment, data: ColdData) -> Experiment:
    """Return the experiment on the data without the items that were left out. What was filtered stays filtered.

    Raises:
        UserError: the data have another split than leave-one-out, which the rest of the data would not have.
    """
    if not config.data.split.neutral:
        raise UserError(
            f"data.split.type: {config.data.split.type}; items are left out of data with leave_one_out alone; leave "
            "data.split out, or train on data.split.type=cold instead"
        )
    plain = DataConfig(path=str(data.folder), format="pairs", seed=config.data.seed)
    return config.model_copy(update={"data": plain})


def cold_metrics(answerer: Answerer, dataset: Dataset, data: ColdData, cache: Path) -> dict[str, Any]:
    """Rank the test users whose target is new, by the model, by popularity and by text alone.

    Args:
        answerer: the model, with the new items in its catalogue.
        dataset: the whole data.
        data: what was left out of it.
        cache: the cache of all artifacts.

    Returns:
        Metrics of each contestant: over all items, with and without the history among the candidates, and `among_new`,
        where only new items are candidates. `known_targets` has the model's for the other test users.
    """
    histories, targets, is_cold = _test_users(answerer, dataset, data)
    if not is_cold.any():
        raise UserError("cold.fraction: no test user has one of the left-out items as target; raise it")
    cold = [history for history, cold in zip(histories, is_cold, strict=True) if cold]
    known = [history for history, cold in zip(histories, is_cold, strict=True) if not cold]
    cold_B, known_B = targets[is_cold], targets[~is_cold]
    num_known = answerer.catalogue.num_known
    vector_BD, bias = answerer.reader.vectors(cold)
    model_BI, pairs = vector_BD @ answerer.items_ID.float().T, answerer.reader.pairs(cold)
    model_BI[pairs.rows_P, pairs.items_P] += pairs.values(bias)
    scores = {
        "laser": model_BI,
        "text cosine": _text_scores(answerer, cold, cache),
        "popularity": torch.from_numpy(answerer.catalogue.popularity).float().expand(len(cold), -1),
    }
    figures: dict[str, Any] = {
        name: _metrics(scores_BI, cold_B, cold) | {"among_new": _among_new(scores_BI, cold_B, num_known)}
        for name, scores_BI in scores.items()
    }
    counts = {"new_items": len(data.cold), "cold_users": len(cold), "known_users": len(known)}
    return {**counts, "cold_targets": figures, "known_targets": _model_metrics(answerer, known, known_B)}


def table_rows(figures: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row for each contestant: NDCG@10 and Recall@10 over all items, and NDCG@10 among the new ones."""
    return [
        (name, *(f"{value:.4f}" for value in (row["ndcg@10"], row["recall@10"], row["among_new"]["ndcg@10"])))
        for name, row in figures["cold_targets"].items()
    ]


def _test_users(
    answerer: Answerer, dataset: Dataset, data: ColdData
) -> tuple[Histories, NDArray[np.int64], NDArray[np.bool_]]:
    """Return histories and targets by the ids of the answerer's catalogue, and whether a target is new."""
    raw_ids = dataset.items.column("raw_id").to_pylist()
    number = np.array([answerer.catalogue.numbers.get(raw, -1) for raw in raw_ids], np.int32)
    examples = dataset.examples("test")
    histories, targets, cold = [], [], []
    for row in range(len(examples)):
        history, target = number[examples.whole_history(row)], int(examples.targets[row])
        if len(history := history[history >= 0]) and number[target] >= 0:
            histories.append(history)
            targets.append(int(number[target]))
            cold.append(raw_ids[target] in data.cold)
    return histories, np.array(targets, np.int64), np.array(cold)


def _metrics(scores_BI: Tensor, targets_B: NDArray[np.int64], histories: Histories) -> dict[str, float]:
    wanted_B = torch.from_numpy(targets_B)
    ranks_B = ranks(scores_BI, wanted_B)
    masked_B = ranks_without_histories(ranks_B, scores_BI, wanted_B, histories)
    masked = {masked_name(name): value for name, value in ranking_metrics(masked_B.numpy()).items()}
    return ranking_metrics(ranks_B.numpy()) | masked


def _among_new(scores_BI: Tensor, targets_B: NDArray[np.int64], num_known: int) -> dict[str, float]:
    return ranking_metrics(ranks(scores_BI[:, num_known:], torch.from_numpy(targets_B - num_known)).numpy())


def _model_metrics(answerer: Answerer, histories: Histories, targets_B: NDArray[np.int64]) -> dict[str, float]:
    vector_BD, bias = answerer.reader.vectors(histories)
    pairs = answerer.reader.pairs(histories)
    found = user_ranks(vector_BD, answerer.items_ID, torch.from_numpy(targets_B), pairs, bias)
    return ranking_metrics(found[0].numpy())


def _text_scores(answerer: Answerer, histories: Histories, cache: Path) -> Tensor:
    """Return cosines of each item's text with the history's, summed with recency weights; scores_BI."""
    llm, dataset = answerer.reader.config.llm, answerer.catalogue.dataset
    white_IW = whitened(item_features(llm.source, llm.num_layers, dataset, cache, torch.device("cpu")), TEXT_WIDTH)
    sums_BW = np.stack([HISTORY_DECAY ** np.arange(len(history))[::-1] @ white_IW[history] for history in histories])
    scores_BI = torch.from_numpy((sums_BW @ white_IW.T).astype(np.float32))
    for row, history in enumerate(histories):  # an item's text is most like itself
        scores_BI[row, np.unique(history)] = scores_BI[row, np.unique(history)].clamp(max=0)
    return scores_BI
