"""Trains one epoch; encodes the catalogue and ranks users without gradient.

Shape suffixes: B batch, E examples, I catalogue items, D width of the embeddings, K experts.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from laser.cli.progress import log_once_reached, progress
from laser.config.schema import TrainingConfig
from laser.data.batches import inference_batches, training_batches
from laser.engine.ahead import made_ahead
from laser.engine.base import Engine
from laser.engine.guards import LossGuard, report_collapse
from laser.engine.histories import Histories
from laser.engine.schedule import Schedule
from laser.engine.step import Step, StepResult, own_share, training_step
from laser.evaluation.lists import LIST_SIZE
from laser.evaluation.pair_scores import PairScores
from laser.evaluation.ranking import TILE_USERS, user_ranks
from laser.evaluation.top_items import top_items
from laser.evaluation.user_ranks import UserRanks
from laser.models.batch import Batch
from laser.models.laser import Laser, LaserOutput, Reading

ITEM_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Maps `training.item_dtype` to a dtype."""
SUM_ELEMENTS = 2**24
"""The workers add up this many numbers of the item embeddings at once, because a sum takes a copy."""


@dataclass(frozen=True)
class CatalogueStep:
    """Takes steps against fixed item embeddings of the whole catalogue (stages 1 and 2)."""

    engine: Engine
    histories: Histories
    items_ID: Tensor
    config: TrainingConfig
    reading: Reading = Laser.represent

    def prepare(self, indices: NDArray[np.int64]) -> list[Batch]:
        own, weights = own_share(self.engine, indices)
        size, device = self.config.micro_batch_size, self.engine.device
        parts = [slice(start, start + size) for start in range(0, len(own), size)]
        return [self.histories.batch(own[part], weights[part], device) for part in parts]

    def take(self, made: list[Batch], indices: NDArray[np.int64], number: int, factor: float) -> StepResult:
        return training_step(self.engine, made, self.items_ID, self.config, factor, self.reading)


def train_epoch(
    engine: Engine,
    histories: Histories,
    step: Step,
    config: TrainingConfig,
    epoch: int,
    label: str,
    schedule: Schedule,
    num_items: int,
) -> dict[str, float]:
    """Train one epoch and return its figures.

    Args:
        engine: this worker's model and optimizer.
        histories: the training examples, the same on every worker.
        step: how optimizer steps are taken.
        config: gives batch sizes and seed.
        epoch: number of epochs before this one, over all stages. It and the seed determine the order of the data.
        label: names the epoch in the progress line.
        schedule: gives the factor on the learning rates in this epoch.
        num_items: size of the catalogue.

    Raises:
        FloatingPointError: the loss is not finite or explodes. The message names the epoch, the step and its users.
    """
    engine.laser.train()
    torch.manual_seed(config.seed + 1_000_003 * epoch + engine.rank)  # for dropout: no generator state to save
    batches = training_batches(histories.lengths, config.batch_size, config.seed, epoch)
    started = time.perf_counter()
    contrastive = load_balance = 0.0
    num_examples = num_tokens = 0
    expert_counts_K = torch.zeros(engine.laser.num_experts, dtype=torch.float64)
    guard = LossGuard(label, num_items, config.max_loss_growth)
    with (
        progress(batches, label, "step", enabled=engine.rank == 0) as steps,
        made_ahead(step.prepare, batches, engine.device) as prepared,
    ):
        for number, (indices, made) in enumerate(zip(steps, prepared, strict=True)):
            result = step.take(made, indices, number, schedule.factor(number))
            log_once_reached("first step")
            guard.check(number, result.contrastive, result.load_balance, histories.examples.users[indices])
            contrastive += result.contrastive * result.num_examples
            load_balance += result.load_balance * result.num_examples
            num_examples += result.num_examples
            num_tokens += result.num_tokens + result.num_examples * engine.laser.num_added_tokens
            expert_counts_K += result.expert_counts_K
            steps.note(loss=contrastive / num_examples)
    seconds = time.perf_counter() - started
    contrastive, load_balance = contrastive / num_examples, load_balance / num_examples
    figures = {
        "loss": contrastive + config.load_balance_weight * load_balance,
        "loss/contrastive": contrastive,
        **({"loss/load_balance": load_balance} if engine.laser.num_experts else {}),
        "tokens": float(num_tokens),
        "tokens_per_second": num_tokens / seconds,
        "histories_per_second": num_examples / seconds,
        "train_seconds": seconds,
    }
    for expert, count in enumerate(expert_counts_K.tolist()):
        figures[f"expert_load/{expert}"] = count / num_examples
    figures |= engine.restarts.end_epoch()
    if engine.rank == 0:
        report_collapse(label, figures)
    return figures


def outputs(
    engine: Engine, histories: Histories, batch_tokens: int, label: str, reading: Reading = Laser.represent
) -> Iterator[tuple[NDArray[np.int64], LaserOutput]]:
    """Yield `(indices, output)` for this worker's part of the histories, without gradient."""
    batches = inference_batches(histories.costs(engine.laser.num_added_tokens), batch_tokens)
    return outputs_of_batches(engine, histories, batches, label, reading)


def outputs_of_batches(
    engine: Engine,
    histories: Histories,
    batches: Sequence[NDArray[np.int64]],
    label: str,
    reading: Reading = Laser.represent,
) -> Iterator[tuple[NDArray[np.int64], LaserOutput]]:
    """Yield `(indices, output)` for this worker's part of some batches, without gradient.

    The workers take batches in turn. A worker that has none left repeats the last batch and yields nothing for it,
    because under ZeRO-3 every forward pass is a collective operation.
    """
    engine.laser.eval()
    numbers = range(engine.rank, len(batches) + engine.rank, engine.world_size)
    own = [batches[min(number, len(batches) - 1)] for number in numbers]
    with (
        progress(numbers, label, "batch", enabled=engine.rank == 0) as shown,
        histories.batches(own, engine.device) as made,
        torch.no_grad(),
    ):
        for number, indices, batch in zip(shown, own, made, strict=True):
            output = engine.forward(batch, reading)
            if number < len(batches):
                yield indices, output


def encode_items(engine: Engine, histories: Histories, config: TrainingConfig, label: str = "encode items") -> Tensor:
    """Return the vectors of items (I, D) in `training.item_dtype` on every worker; each worker encodes a part.

    Users are encoded in the same way.
    """
    width, dtype = engine.laser.vector_width, ITEM_DTYPES[config.item_dtype]
    vector_ID = torch.zeros(len(histories), width, device=engine.device, dtype=dtype)
    for indices, output in outputs(engine, histories, config.inference_batch_tokens, label):
        vector_ID[torch.from_numpy(indices).to(engine.device)] = output.vector_BD.to(dtype)
    for part in vector_ID.split(max(1, SUM_ELEMENTS // width)):
        part.copy_(engine.sum(part))  # exact, because all workers but one add zeros
    return vector_ID


def evaluate(
    engine: Engine, histories: Histories, items_ID: Tensor, config: TrainingConfig, label: str, lists: bool = False
) -> UserRanks:
    """Rank each user's target in the full catalogue, and recommend a list to each user if `lists` is true.

    Each worker ranks a part of the users, and every worker returns the ranks of all.
    """
    examples, counted_weight = histories.examples, engine.laser.counted_weight
    if examples.candidates is not None:
        items_ID = items_ID[examples.candidates]
    ranks_2E = torch.zeros(2, len(histories), dtype=torch.int64, device=engine.device)
    list_size = min(LIST_SIZE, len(items_ID)) if lists else 0
    lists_EK = torch.zeros(len(histories), list_size, dtype=torch.int64, device=engine.device)
    for indices, vector_BD, bias in _many_users(outputs(engine, histories, config.inference_batch_tokens, label)):
        rows = torch.from_numpy(indices).to(engine.device)
        targets, own = examples.wanted(indices)
        targets_B = torch.from_numpy(targets).to(engine.device)
        counted_BI = histories.counted_scores(indices) if counted_weight else None
        pairs = PairScores.of(own, len(items_ID), engine.device, counted_BI, counted_weight)
        ranks_2E[:, rows] = torch.stack(user_ranks(vector_BD, items_ID, targets_B, pairs, bias))
        if lists:
            lists_EK[rows] = top_items(vector_BD, items_ID, list_size, pairs, bias)
    ranks_E, masked_E = engine.sum(ranks_2E).cpu().numpy()
    if not lists:
        return UserRanks(examples.users, examples.targets, ranks_E, masked_E)
    items_EK = examples.items_at(engine.sum(lists_EK).cpu().numpy().astype(np.int32))
    return UserRanks(examples.users, examples.targets, ranks_E, masked_E, items_EK, len(items_ID))


def _many_users(
    batches: Iterable[tuple[NDArray[np.int64], LaserOutput]],
) -> Iterator[tuple[NDArray[np.int64], Tensor, float]]:
    """Yield `(indices, vector_BD, history bias)` of several batches at once; each ranking reads the whole catalogue."""
    indices: list[NDArray[np.int64]] = []
    vectors: list[Tensor] = []
    bias = 0.0
    for batch, output in batches:
        indices.append(batch)
        vectors.append(output.vector_BD)
        bias = 0.0 if output.history_bias is None else float(output.history_bias)
        if sum(map(len, indices)) >= TILE_USERS:
            yield np.concatenate(indices), torch.cat(vectors), bias
            indices, vectors = [], []
    if indices:
        yield np.concatenate(indices), torch.cat(vectors), bias
