"""Takes one optimizer step over a global batch that is split among workers and micro-batches.

The result is the same for every split. Workers sum gradients, and every loss is divided by the size of the global
batch. The load-balance fractions f_j are counted over the global batch before the first backward pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from laser.config.schema import TrainingConfig
from laser.data.batches import shard
from laser.engine.base import Engine
from laser.engine.losses import expert_choice_counts, item_contrastive_loss, load_balance_loss
from laser.models.batch import Batch
from laser.models.laser import Laser, Reading


@dataclass(frozen=True)
class StepResult:
    """Holds the figures of one step over the global batch of all workers."""

    contrastive: float
    """L_IIC, mean over the batch (Eq. 8)."""
    load_balance: float
    """L_LB (Eq. 9); 1 if experts are used evenly, 0 without experts."""
    expert_counts_K: Tensor
    """Number of histories whose first choice each expert was; empty without an M-Former."""
    num_examples: int
    num_tokens: int


class Step(Protocol):
    """How an epoch takes its steps."""

    def prepare(self, indices: NDArray[np.int64]) -> list[Any]:
        """Make this worker's micro-batches of a global batch; every worker has as many, of the same sizes."""

    def take(self, made: list[Any], indices: NDArray[np.int64], number: int, factor: float) -> StepResult:
        """Take the step of this number in its epoch, at this factor on the learning rates."""


def own_share(engine: Engine, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[float]]:
    """Return this worker's shard of a global batch and the weight of each example; all shards have the same size.

    A shard that has too few examples repeats the batch's first one with weight 0, because under ZeRO-3 every forward
    pass is a collective operation.
    """
    own = shard(indices, engine.rank, engine.world_size)
    missing = ceil(len(indices) / engine.world_size) - len(own)
    return np.concatenate([own, np.repeat(indices[:1], missing)]), [1.0] * len(own) + [0.0] * missing


def real_items(batch: Batch) -> Tensor:
    """Return `mask_BN`: 1 at the history items of real examples, 0 at padding and at examples that fill a shard."""
    return batch.encoding_mask_BN * batch.weights_B[:, None]


def training_step(
    engine: Engine,
    micro_batches: Sequence[Batch],
    item_embeddings_IH: Tensor,
    config: TrainingConfig,
    learning_rate_factor: float,
    reading: Reading = Laser.represent,
) -> StepResult:
    """Run forward, backward and update over one global batch.

    Args:
        engine: this worker's model and optimizer.
        micro_batches: this worker's shard; their number is the same on every worker.
        item_embeddings_IH: the item embeddings, fixed for the epoch, without gradient.
        config: gives temperature and load-balance weight.
        learning_rate_factor: the schedule's factor for this step.
        reading: the method of `Laser` that reads the histories.
    """
    num_experts = engine.laser.num_experts
    counted = [torch.stack([batch.weights_B.sum(), real_items(batch).sum()]) for batch in micro_batches]
    local_2 = torch.stack(counted).double().sum(dim=0)  # added on the device, which is waited for once
    local_3 = torch.cat([local_2, local_2.new_tensor([sum(batch.num_tokens for batch in micro_batches)])])
    num_examples, num_items, num_tokens = engine.sum(local_3).tolist()
    fractions_K = choice_fractions(engine, micro_batches, num_items)

    totals = torch.zeros(2 + num_experts, device=engine.device, dtype=torch.float64)
    for batch in micro_batches:
        output = engine.forward(batch, reading)
        contrastive = item_contrastive_loss(
            output.vector_BD,
            item_embeddings_IH,
            batch.targets_B,
            batch.weights_B,
            config.temperature,
            output.history_bias,
            batch.own_items,
        )
        contrastive = loss = contrastive / num_examples
        if output.routing is not None:
            balance = load_balance_loss(output.routing.gate_BNK, real_items(batch), fractions_K) / num_items
            loss = contrastive + config.load_balance_weight * balance
            totals[1] += balance.detach()
            totals[2:].index_add_(0, output.routing.expert_B, batch.weights_B.to(totals.dtype))
        engine.backward(loss)
        totals[0] += contrastive.detach()
    engine.step(learning_rate_factor)
    totals = engine.sum(totals).cpu()
    return StepResult(
        contrastive=float(totals[0]),
        load_balance=float(totals[1]),
        expert_counts_K=totals[2:],
        num_examples=int(num_examples),
        num_tokens=int(num_tokens),
    )


def choice_fractions(engine: Engine, micro_batches: Sequence[Batch], num_items: float) -> Tensor:
    """Count f_j over the global batch: `fractions_K`, empty without an M-Former (collective).

    The router is one small product, so counting before the first backward pass costs little.
    """
    mformer = engine.laser.mformer
    if mformer is None:
        return torch.zeros(0, device=engine.device)
    router_weight_KC = engine.whole(mformer.router.score.weight)
    choices_K = torch.zeros(len(router_weight_KC), device=engine.device)
    for batch in micro_batches:
        choices_K += expert_choice_counts(batch.encoding_BNC @ router_weight_KC.T, real_items(batch))
    return engine.sum(choices_K) / num_items
