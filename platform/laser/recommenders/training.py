"""Trains an ID-based recommender until validation stops improving, or fits it in closed form."""

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from laser.cli.progress import progress, waiting
from laser.config.families.recommenders import FamilySection, TrainedSection
from laser.data.batches import pad_right, training_batches
from laser.data.dataset import Dataset
from laser.errors import UserError
from laser.evaluation.metrics import SELECTION_METRIC
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

    Returns:
        The model with its best weights, and its metrics and costs.

    Raises:
        UserError: `recommender.type` is none, or the dataset has nothing to train on or to validate with.
        FloatingPointError: the loss is not finite; names the epoch.
    """
    started = time.perf_counter()
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
            result = _train(model.to(device), config, dataset, report)
    return model, replace(result, seconds=time.perf_counter() - started)


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
    return replace(validated(model, dataset, report), tokens_per_second=sum(map(len, sequences)) / seconds)


def validated(model: SequentialRecommender, dataset: Dataset, report: Report | None) -> TrainingResult:
    """Validate a model that has no epochs, and report its metrics as those of epoch 0."""
    val = recommender_ranks(model, dataset.examples("val")).metrics()
    history = [{"epoch": 0, **{f"val/{name}": val[name] for name in val}}]
    if report:
        report(history[0], 0)
    statistics = model.num_statistics if isinstance(model, FittedRecommender) else 0
    return TrainingResult(val, 0, 0, statistics, history, _num_parameters(model))


def _train(
    model: TrainedRecommender, config: TrainedSection, dataset: Dataset, report: Report | None
) -> TrainingResult:
    """Train until the NDCG@10 of all validation users has not improved for `patience` validations."""
    sequences, validation = training_sequences(dataset, config.max_history + 1), dataset.examples("val")
    _check_enough(dataset, len(sequences))
    lengths = np.array([len(sequence) for sequence in sequences])
    train_seconds = 0.0
    history: list[dict[str, float]] = []
    best: dict[str, float] = {}
    generator = torch.Generator().manual_seed(config.seed)
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
            if not best or val[SELECTION_METRIC] > best[SELECTION_METRIC]:
                best, best_epoch = val, epoch
                best_weights = {name: weight.clone() for name, weight in model.state_dict().items()}
            epochs.note(loss=loss, ndcg=val[SELECTION_METRIC], best=best[SELECTION_METRIC])
            if epoch - best_epoch >= config.patience * config.validate_every:
                break
    model.load_state_dict(best_weights)
    speed = epoch * int(lengths.sum()) / train_seconds
    return TrainingResult(best, epoch, best_epoch, 0, history, _num_parameters(model), speed)


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
