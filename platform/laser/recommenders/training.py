"""Making the ID-based recommender under the M-Former, once per setting: trained until validation stops improving, or
fitted in closed form.

The result is a directory `recommenders/<type>-<hash>` in the cache: `model.safetensors` and `recommender.json`
(`laser.recommenders.storage`), `result.json` with the metrics and the course of the training, and `ranks/test.parquet`
with the rank of each test user.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from laser.cli.progress import progress
from laser.config.identity import stage_key
from laser.config.recommenders import (
    NoRecommenderConfig,
    RecommenderConfig,
    RecommenderSection,
    StackConfig,
    TextSection,
)
from laser.data.batches import pad_right, training_batches
from laser.data.dataset import Dataset
from laser.errors import UserError
from laser.evaluation.user_ranks import TEST_RANKS
from laser.recommenders.base import FittedRecommender, SequentialRecommender, TrainedRecommender
from laser.recommenders.families.stack import Stack
from laser.recommenders.ranks import recommender_ranks
from laser.recommenders.storage import build_recommender, load_recommender, save_recommender
from laser.recommenders.text import ReadsText
from laser.recommenders.text_features import item_features
from laser.storage.cache import make_once
from laser.storage.files import write_json
from laser.storage.locks import exclusive
from laser.tracking.interface import Report, RunResults

STAGE_VERSION = 2
"""Raised when the training changes what it makes, so that older results are not reused."""


def pretrained_recommender(
    config: RecommenderConfig, dataset: Dataset, cache_dir: Path, report: Report | None = None, test: bool = True
) -> tuple[SequentialRecommender, dict[str, Any]]:
    """The recommender of these settings, trained on this dataset: from the cache, or trained now.

    Safe when several processes ask at once: one trains, the others wait and load. An interrupted training leaves
    nothing that counts, and starts over.

    Args:
        config: its settings; with the dataset's fingerprint they name the result.
        dataset: what to train on.
        cache_dir: the cache of all stages.
        report: gets the metrics of each validated epoch and its number; those of a cached result too.
        test: read the test set, once; without it, what is one of several to choose from leaves it unread.

    Returns:
        The frozen model on the CPU, and the result of `train_recommender` with ``test`` (absent while the test set is
        unread, null where the dataset has none), ``path`` (of the directory) and ``reused`` (whether it came from the
        cache).

    Raises:
        UserError: `recommender.type` is none.
    """
    if isinstance(config, NoRecommenderConfig):
        raise UserError('recommender.type: "none"; there is nothing to train: name a recommender')
    key = stage_key(config.type, STAGE_VERSION, config, dataset.fingerprint)
    directory = cache_dir / "recommenders" / key

    def make(aside: Path) -> None:
        aside.mkdir()
        if isinstance(config, StackConfig):
            model, result = _stack(config, dataset, cache_dir, report)
        else:
            features_IH = None
            if isinstance(config, TextSection):
                features_IH = item_features(config.text_source, config.text_num_layers, dataset, cache_dir)
            model, result = train_recommender(config, dataset, report, features_IH)
        save_recommender(model, config, dataset.num_items, aside)
        write_json(aside / "result.json", result)

    reused = not make_once(directory, make)
    recommender = load_recommender(directory)
    with exclusive(directory.with_name(f"{key}.lock")):
        result = json.loads((directory / "result.json").read_text())
        if test and "test" not in result:
            result["test"] = _test(recommender, dataset, directory / TEST_RANKS)
            write_json(directory / "result.json", result)
    if reused and report:
        for metrics in result["history"]:
            report(metrics, metrics["epoch"])
    return recommender, {**result, "path": str(directory), "reused": reused}


def pretraining_results(result: Mapping[str, Any]) -> RunResults:
    """What there is to record of a pre-training, from the result of `pretrained_recommender`."""
    figures = {name: float(result[name]) for name in ("epochs", "trainable_parameters", "tokens_per_second", "seconds")}
    for split, metrics in (("best", result["val"]), ("test", result["test"] or {})):
        figures |= {f"{split}/{name}": value for name, value in metrics.items()}
    artifacts = {"recommender": Path(result["path"])}
    if result["test"]:
        artifacts["ranks"] = artifacts["recommender"] / TEST_RANKS.parent
    return RunResults(result["history"], figures, artifacts)


def train_recommender(
    config: RecommenderConfig,
    dataset: Dataset,
    report: Report | None = None,
    features_IH: NDArray[np.float32] | None = None,
) -> tuple[SequentialRecommender, dict[str, Any]]:
    """Train or fit, as the family asks for, and validate.

    The same seed gives the same weights on the same hardware and number of threads; the caller's random state is left
    as it was.

    Args:
        config: settings of the family.
        dataset: what to train on.
        report: gets the metrics of each validated epoch and its number; 0 where there are no epochs.
        features_IH: text features of the items, for the families that read them.

    Returns:
        The model with its best weights, and ``val`` ({recall@10, ndcg@10, mrr}, masked and not), ``epochs``,
        ``best_epoch``, ``trainable_parameters``, ``statistics`` (numbers that a fit took from the data),
        ``tokens_per_second`` (items of training sequences passed, validation time not counted), ``seconds`` and
        ``history`` (``epoch``, ``loss`` and ``val/…`` of each validated epoch).

    Raises:
        UserError: the dataset has nothing to train on or to validate with.
        FloatingPointError: the loss is not finite; names the epoch.
    """
    started = time.perf_counter()
    with torch.random.fork_rng():
        if isinstance(config, RecommenderSection):
            torch.manual_seed(config.seed)
        model = build_recommender(config, dataset.num_items)
        if isinstance(model, ReadsText):
            assert features_IH is not None, "this family reads text"
            model.read_text(features_IH)
        if isinstance(model, FittedRecommender):
            result = _fit(model, dataset, report)
        else:
            assert isinstance(model, TrainedRecommender) and isinstance(config, RecommenderSection)
            result = _train(model, config, dataset, report)
    result["trainable_parameters"] = sum(parameter.numel() for parameter in model.parameters())
    return model, {**result, "seconds": time.perf_counter() - started}


def _stack(
    config: StackConfig, dataset: Dataset, cache_dir: Path, report: Report | None
) -> tuple[SequentialRecommender, dict[str, Any]]:
    """Put the parts, which are made and cached by themselves, side by side: as `train_recommender`."""
    started = time.perf_counter()
    (fitted, _), (trained, of_trained) = (
        pretrained_recommender(part, dataset, cache_dir, test=False) for part in (config.fitted, config.trained)
    )
    assert isinstance(fitted, FittedRecommender) and isinstance(trained, TrainedRecommender)
    model = Stack(fitted, trained, config.trained_weight).eval()
    return model, {
        **_validated(model, dataset, report),
        "tokens_per_second": of_trained["tokens_per_second"],
        "trainable_parameters": of_trained["trainable_parameters"],
        "seconds": time.perf_counter() - started,
    }


def _fit(model: FittedRecommender, dataset: Dataset, report: Report | None) -> dict[str, Any]:
    """Fit all training sequences, and validate: what `train_recommender` returns."""
    started = time.perf_counter()
    sequences = [sequence for user in range(dataset.num_users) if len(sequence := dataset.train_items(user))]
    validation = dataset.examples("val")
    _check_enough(dataset, sum(len(sequence) > 1 for sequence in sequences), len(validation))
    model.fit(sequences)
    seconds = time.perf_counter() - started
    return {**_validated(model, dataset, report), "tokens_per_second": sum(map(len, sequences)) / seconds}


def _validated(model: FittedRecommender, dataset: Dataset, report: Report | None) -> dict[str, Any]:
    """What `train_recommender` returns of a model without epochs, but for its costs."""
    val = recommender_ranks(model, dataset.examples("val")).metrics()
    history = [{"epoch": 0, **{f"val/{name}": val[name] for name in val}}]
    if report:
        report(history[0], 0)
    return {"val": val, "epochs": 0, "best_epoch": 0, "statistics": model.num_statistics, "history": history}


def _train(
    model: TrainedRecommender, config: RecommenderSection, dataset: Dataset, report: Report | None
) -> dict[str, Any]:
    """Train until the NDCG@10 of all validation users has not improved for `patience` validations."""
    sequences, validation = training_sequences(dataset, config.max_history + 1), dataset.examples("val")
    _check_enough(dataset, len(sequences), len(validation))
    lengths = np.array([len(sequence) for sequence in sequences])
    train_seconds = 0.0
    history: list[dict[str, float]] = []
    best: dict[str, float] = {}
    generator = torch.Generator().manual_seed(config.seed)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    with progress(range(1, config.max_epochs + 1), f"pretrain {type(model).__name__}", "epoch") as epochs:
        for epoch in epochs:
            epoch_started = time.perf_counter()
            batches = training_batches(lengths, config.batch_size, config.seed, epoch)
            loss = _train_epoch(model, optimizer, sequences, batches, generator)
            train_seconds += time.perf_counter() - epoch_started
            if not np.isfinite(loss):
                raise FloatingPointError(f"epoch {epoch}: loss {loss}; lower recommender.learning_rate")
            if epoch % config.validate_every and epoch < config.max_epochs:
                continue
            val = recommender_ranks(model, validation).metrics()
            history.append({"epoch": epoch, "loss": loss, **{f"val/{name}": val[name] for name in val}})
            if report:
                report(history[-1], epoch)
            if not best or val["ndcg@10"] > best["ndcg@10"]:
                best, best_epoch = val, epoch
                best_weights = {name: weight.clone() for name, weight in model.state_dict().items()}
            epochs.note(loss=loss, ndcg=val["ndcg@10"], best=best["ndcg@10"])
            if epoch - best_epoch >= config.patience * config.validate_every:
                break
    model.load_state_dict(best_weights)
    return {
        "val": best,
        "epochs": epoch,
        "best_epoch": best_epoch,
        "statistics": 0,
        "tokens_per_second": epoch * int(lengths.sum()) / train_seconds,
        "history": history,
    }


def _check_enough(dataset: Dataset, num_sequences: int, num_users: int) -> None:
    if not num_sequences or not num_users:
        raise UserError(
            f"data.path: {dataset.name} has {num_sequences} training sequences of 2 items or more, and "
            f"{num_users} users to validate with; give more data, or lower data.k_core and data.min_rating"
        )


def _test(model: SequentialRecommender, dataset: Dataset, path: Path) -> dict[str, float] | None:
    """Read the test set: write the users' ranks, return their metrics."""
    examples = dataset.examples("test")
    if not len(examples):
        return None
    ranks = recommender_ranks(model, examples)
    ranks.write(path)
    return ranks.metrics()


def training_sequences(dataset: Dataset, max_items: int) -> list[NDArray[np.int32]]:
    """Each user's training items in windows of at most `max_items`, cut from the most recent item backwards.

    Neighbouring windows share one item, so that every item after a user's first is some window's target exactly once.
    Users with a single training item have nothing to predict.
    """
    examples = dataset.examples("train")
    sequences = []
    for start, last in zip(examples.starts, examples.ends, strict=True):
        end = last + 1  # with the target
        while end - start > 1:
            sequences.append(dataset.item_ids[max(start, end - max_items) : end])
            end -= max_items - 1
    return sequences


def _train_epoch(
    model: TrainedRecommender,
    optimizer: torch.optim.Optimizer,
    sequences: list[NDArray[np.int32]],
    batches: list[NDArray[np.int64]],
    generator: torch.Generator,
) -> float:
    """One pass over all sequences; the mean loss of its steps."""
    model.train()
    losses = []
    for batch in batches:
        item_ids, mask = pad_right([sequences[index] for index in batch], 0)
        loss = model.loss(
            torch.from_numpy(item_ids).to(model.device), torch.from_numpy(mask).to(model.device), generator
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())
