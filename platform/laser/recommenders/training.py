"""Trains an ID-based recommender until validation stops improving, or fits it in closed form."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from laser.cli.progress import waiting
from laser.config.families.recommenders import FamilySection, TrainedSection
from laser.data.batches import pad_right, training_batches
from laser.data.dataset import Dataset
from laser.errors import UserError
from laser.evaluation.metrics import SELECTION_METRIC
from laser.models.early_stopping import EarlyStopping
from laser.recommenders.base import FittedRecommender, ReadsDays, SequentialRecommender, TrainedRecommender
from laser.recommenders.ranks import recommender_ranks
from laser.recommenders.registry import build_recommender
from laser.recommenders.text import ReadsText
from laser.tracking.interface import Report

CPU = torch.device("cpu")


@dataclass(frozen=True)
class TrainingResult:
    """The metrics and costs of a training or a fit. `result.json` has the same fields."""

    val: dict[str, float]
    """Validation metrics of the best epoch ({recall@10, ndcg@10, mrr}, masked and not)."""
    epochs: int
    """0 without training by gradient; so is `best_epoch`."""
    best_epoch: int
    statistics: int
    """Numbers that a fit took from the data."""
    history: list[dict[str, float]]
    """`epoch`, `loss` and `val/…` of each validated epoch; without training by gradient one entry, without a loss."""
    trainable_parameters: int
    tokens_per_second: float = 0.0
    """Items of training sequences passed per second, validation not counted."""
    seconds: float = 0.0


def train_recommender(
    config: FamilySection,
    dataset: Dataset,
    report: Report | None = None,
    features_IH: NDArray[np.float32] | None = None,
    device: torch.device = CPU,
    unfinished: Path | None = None,
) -> tuple[SequentialRecommender, TrainingResult]:
    """Train or fit, as the family asks for, and validate.

    The same seed gives the same weights on the same hardware and number of threads. The caller's random state does not
    change.

    Args:
        config: settings of the family.
        dataset: what to train on.
        report: gets the metrics of each validated epoch and its number, which is 0 where there are no epochs.
        features_IH: text features of the items, for the families that read them.
        device: where training by gradient is computed.
        unfinished: the file from which an interrupted training by gradient goes on (`EarlyStopping`).

    Returns:
        The model with its best weights, and its metrics and costs.

    Raises:
        UserError: `recommender.type` is none, or the dataset has nothing to train on or to validate with.
        FloatingPointError: the loss is not finite; names the epoch.
    """
    with torch.random.fork_rng():
        if isinstance(config, TrainedSection):
            torch.manual_seed(config.seed)
        model = build_recommender(config, dataset.num_items)
        if isinstance(model, ReadsText):
            assert features_IH is not None, "this family reads text"
            model.read_text(features_IH)
        if isinstance(model, FittedRecommender):
            result = _fit(model, dataset, report)
        else:
            assert isinstance(model, TrainedRecommender) and isinstance(config, TrainedSection)
            result = _train(model.to(device), config, dataset, report, unfinished)
    return model, result


def _fit(model: FittedRecommender, dataset: Dataset, report: Report | None) -> TrainingResult:
    """Fit all training sequences, and validate."""
    started = time.perf_counter()
    users = [user for user in range(dataset.num_users) if len(dataset.train_items(user))]
    sequences = [dataset.train_items(user) for user in users]
    _check_enough(dataset, sum(len(sequence) > 1 for sequence in sequences))
    if isinstance(model, ReadsDays):
        model.read_days([dataset.train_days(user) for user in users])
    with waiting(f"fit {type(model).__name__} to {len(sequences):,} users and {dataset.num_items:,} items"):
        model.fit(sequences)
    seconds = time.perf_counter() - started
    result = validated(model, dataset, report)
    speed = sum(map(len, sequences)) / seconds
    return replace(result, tokens_per_second=speed, seconds=time.perf_counter() - started)


def validated(model: SequentialRecommender, dataset: Dataset, report: Report | None) -> TrainingResult:
    """Validate a model that has no epochs, and report its metrics as those of epoch 0."""
    val = recommender_ranks(model, dataset.examples("val")).metrics()
    history = [{"epoch": 0, **{f"val/{name}": val[name] for name in val}}]
    if report:
        report(history[0], 0)
    statistics = model.num_statistics if isinstance(model, FittedRecommender) else 0
    return TrainingResult(val, 0, 0, statistics, history, _num_parameters(model))


def _train(
    model: TrainedRecommender,
    config: TrainedSection,
    dataset: Dataset,
    report: Report | None,
    unfinished: Path | None,
) -> TrainingResult:
    """Train until the NDCG@10 of all validation users has not improved for `patience` validations."""
    sequences, validation = training_sequences(dataset, config.max_history + 1), dataset.examples("val")
    _check_enough(dataset, len(sequences))
    lengths = np.array([len(sequence) for sequence in sequences])
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    stopping = EarlyStopping(model, optimizer, config.patience * config.validate_every, unfinished, generator)
    if report:
        for figures in stopping.history:
            report(figures, int(figures["epoch"]))

    def run(epoch: int) -> tuple[dict[str, float], float] | None:
        started = time.perf_counter()
        batches = training_batches(lengths, config.batch_size, config.seed, epoch)
        loss = _train_epoch(model, optimizer, sequences, batches, generator)
        stopping.train_seconds += time.perf_counter() - started
        if not np.isfinite(loss):
            raise FloatingPointError(f"epoch {epoch}: loss {loss}; lower recommender.learning_rate")
        if epoch % config.validate_every and epoch < config.max_epochs:
            return None
        val = recommender_ranks(model, validation).metrics()
        figures = {"epoch": epoch, "loss": loss, **{f"val/{name}": val[name] for name in val}}
        if report:
            report(figures, epoch)
        return figures, val[SELECTION_METRIC]

    best = stopping.train(config.max_epochs, f"pretrain {type(model).__name__}", run)
    metrics = {name.removeprefix("val/"): value for name, value in best.items() if name.startswith("val/")}
    return TrainingResult(
        metrics,
        stopping.epoch,
        int(best["epoch"]),
        0,
        stopping.history,
        _num_parameters(model),
        stopping.epoch * int(lengths.sum()) / stopping.train_seconds,
        stopping.seconds,
    )


def _check_enough(dataset: Dataset, num_sequences: int) -> None:
    num_users = len(dataset.examples("val"))
    if not num_sequences or not num_users:
        raise UserError(
            f"data.path: {dataset.name} has {num_sequences} training sequences of 2 items or more, and "
            f"{num_users} users to validate with; give more data, or lower data.k_core and data.min_rating"
        )


def training_sequences(dataset: Dataset, max_items: int) -> list[NDArray[np.int32]]:
    """Cut each user's training items into windows of at most `max_items`, from the most recent item backwards.

    Neighbouring windows share one item, so that every item after a user's first is the target of exactly one window.
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
    """Pass over all sequences once, and return the mean loss of the steps."""
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


def _num_parameters(model: SequentialRecommender) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
