"""Trains stage 0, which encodes users and items in the same step and sends gradient to both.

The released code runs such a stage before stage 1; the paper does not mention it. A user's candidates are its next item
and either a few sampled items, as in the released code, or the next items of the other users of the batch.

Shape suffixes: B examples of a micro-batch, G of the global batch, M candidates of an example, R real examples of a
micro-batch, D width of the embeddings; 2 stands for users and their next items.

A head's history bias plays no part here, because the next item is the only one of a user's own items among the
candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from laser.config.schema import TrainingConfig
from laser.data.examples import Examples
from laser.engine.base import Engine
from laser.engine.histories import Histories
from laser.engine.losses import candidate_contrastive_loss, load_balance_loss
from laser.engine.step import StepResult, choice_fractions, own_share, real_items
from laser.errors import UserError
from laser.models.batch import Batch, joined
from laser.models.laser import LaserOutput

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class _MicroBatch:
    users: Batch
    both: Batch
    """The users, and below them the candidates of the first user, of the second, and so on. One pass reads all, so that
    ZeRO-3 sees one forward for each backward."""
    rows_R: Tensor
    """Rows of the real examples in the global batch. Examples that only fill a shard come last and have no row."""


class TwoSidedStep:
    """Takes the optimizer steps of one epoch of stage 0, with the same result for every number of workers.

    Args:
        engine: this worker's model and optimizer.
        histories: training examples.
        items: each item as a history of one item, by id.
        config: gives kind and number of negatives, micro-batch size and temperature.
        epoch: number of epochs before this one. It and the seed decide which negatives are drawn.
    """

    def __init__(
        self, engine: Engine, histories: Histories, items: Histories, config: TrainingConfig, epoch: int
    ) -> None:
        self.engine, self.histories, self.items, self.config, self.epoch = engine, histories, items, config, epoch
        self.num_candidates = 1 + (config.num_negatives if config.negatives == "sampled" else 0)

    def take(self, made: list[_MicroBatch], indices: Indices, number: int, factor: float) -> StepResult:
        """Run forward, backward and update over one global batch, the `number`-th of the epoch."""
        engine, config = self.engine, self.config
        users = [micro.users for micro in made]
        counted = [[float(real_items(m.users).sum()), float(m.both.num_tokens)] for m in made]
        num_items, num_tokens = engine.sum(torch.tensor(counted, device=engine.device).double().sum(dim=0)).tolist()
        fractions_K = choice_fractions(engine, users, num_items)
        totals = torch.zeros(2 + engine.laser.num_experts, device=engine.device, dtype=torch.float64)
        gradient_2GD: Tensor | None = None
        outputs: Sequence[LaserOutput | None] = [None] * len(made)
        if config.negatives == "in_batch":
            whole, gradient_2GD, outputs = self._in_batch(made, indices, number)
            totals[0] = whole / engine.world_size  # every worker has computed the whole loss
        for place, micro in enumerate(made):
            output = outputs[place] or self._forward(micro, number, place)
            if gradient_2GD is None:
                loss = self._sampled(output, micro) / len(indices)
                totals[0] += loss.detach()
            else:  # the chain rule gives the gradient of the whole batch's loss
                real_2RD = output.vector_BD.unflatten(0, (2, -1))[:, : len(micro.rows_R)]
                loss = (real_2RD * gradient_2GD[:, micro.rows_R]).sum()
            if output.routing is not None:
                gate_BNK = output.routing.gate_BNK[: len(micro.users.weights_B)]
                balance = load_balance_loss(gate_BNK, real_items(micro.users), fractions_K) / num_items
                loss = loss + config.load_balance_weight * balance
                totals[1] += balance.detach()
                expert_B = output.routing.expert_B[: len(gate_BNK)]
                totals[2:].index_add_(0, expert_B, micro.users.weights_B.to(totals.dtype))
            engine.backward(loss)
        engine.step(factor)
        totals = engine.sum(totals).cpu()
        virtual = len(indices) * self.num_candidates * engine.laser.num_added_tokens
        return StepResult(float(totals[0]), float(totals[1]), totals[2:], len(indices), int(num_tokens) + virtual)

    def _sampled(self, output: LaserOutput, micro: _MicroBatch) -> Tensor:
        """Sum the losses of a micro-batch's users over their own candidates, of which the next item is the first."""
        size = len(micro.users.weights_B)
        user_B1D, item_BMD = output.vector_BD[:size, None], output.vector_BD[size:].unflatten(0, (size, -1))
        targets_B = torch.zeros(size, dtype=torch.int64, device=user_B1D.device)
        scores_BM = (user_B1D * item_BMD).sum(dim=-1)
        return candidate_contrastive_loss(scores_BM, targets_B, micro.users.weights_B, self.config.temperature)

    def _in_batch(
        self, micro_batches: Sequence[_MicroBatch], indices: Indices, number: int
    ) -> tuple[Tensor, Tensor, Sequence[LaserOutput | None]]:
        """Return the loss over the global batch, its gradient to all embeddings, and the outputs that can be reused.

        A user's candidates lie in other micro-batches and with other workers. So a first pass without gradient encodes
        all of them and gathers them. A second pass of each micro-batch then receives the gradient of the loss (arXiv
        2101.06983). A shard of a single micro-batch needs one pass only.
        """
        once = len(micro_batches) == 1
        rows_2GD = torch.zeros(2, len(indices), self.engine.laser.vector_width, device=self.engine.device)
        outputs: list[LaserOutput | None] = []
        for place, micro in enumerate(micro_batches):
            with torch.set_grad_enabled(once):
                output = self._forward(micro, number, place)
            rows_2BD = output.vector_BD.detach().unflatten(0, (2, -1))
            rows_2GD[:, micro.rows_R] = rows_2BD[:, : len(micro.rows_R)]
            outputs.append(output if once else None)
        rows_2GD = self.engine.sum(rows_2GD).requires_grad_()
        are_negatives_GG = torch.from_numpy(are_negatives(self.histories.examples, indices)).to(rows_2GD.device)
        own_G = torch.arange(len(indices), device=rows_2GD.device)
        scores_GG = (rows_2GD[0] @ rows_2GD[1].T).masked_fill(~are_negatives_GG, -torch.inf)
        ones_G = torch.ones(len(indices), device=rows_2GD.device)
        loss = candidate_contrastive_loss(scores_GG, own_G, ones_G, self.config.temperature) / len(indices)
        return loss.detach(), torch.autograd.grad(loss, rows_2GD)[0], outputs

    def prepare(self, indices: Indices) -> list[_MicroBatch]:
        """Cut this worker's shard so that no pass reads more histories and items than `micro_batch_size`."""
        engine, examples = self.engine, self.histories.examples
        own, weights = own_share(engine, indices)
        rows = np.arange(engine.rank, len(indices), engine.world_size)
        at_once = max(1, self.config.micro_batch_size // (1 + self.num_candidates))
        micro_batches = []
        for start in range(0, len(own), at_once):
            part, part_weights = own[start : start + at_once], weights[start : start + at_once]
            users = self.histories.batch(part, part_weights, engine.device)
            candidates = examples.targets[part][:, None].astype(np.int64)
            if self.config.negatives == "sampled":
                drawn = [self._negatives(int(example)) for example in part]
                candidates = np.concatenate([candidates, np.stack(drawn)], axis=1)
            items = self.items.batch(candidates.flatten(), np.repeat(part_weights, self.num_candidates), engine.device)
            rows_R = torch.from_numpy(rows[start : start + at_once]).to(engine.device)
            micro_batches.append(_MicroBatch(users, joined(users, items), rows_R))
        return micro_batches

    def _negatives(self, example: int) -> Indices:
        """Draw items for an example in this epoch, outside its target and history. An item may be drawn twice."""
        examples = self.histories.examples
        known = {*examples.whole_history(example).tolist(), int(examples.targets[example])}
        assert len(known) < len(self.items), "check_negatives refuses such data"
        random = np.random.default_rng([self.config.seed, self.epoch, example])
        drawn: list[int] = []
        while len(drawn) < self.config.num_negatives:
            drawn += [item for item in random.integers(len(self.items), size=16).tolist() if item not in known]
        return np.array(drawn[: self.config.num_negatives])

    def _forward(self, micro: _MicroBatch, number: int, place: int) -> LaserOutput:
        """Run one pass over a micro-batch. A second pass draws the same dropout as the first."""
        where = [self.config.seed, self.epoch, number, place, self.engine.rank]
        torch.manual_seed(int(np.random.default_rng(where).integers(2**62)))
        return self.engine.forward(micro.both)


def check_negatives(train: Examples, num_items: int) -> None:
    """Refuse to sample negatives for a user who has had every item.

    Raises:
        UserError: there is such a user.
    """
    starts = train.starts if train.whole_starts is None else train.whole_starts
    for example in np.flatnonzero(train.ends - starts + 1 >= num_items):  # few are long enough
        known = {*train.whole_history(int(example)).tolist(), int(train.targets[example])}
        if len(known) >= num_items:
            raise UserError(
                "training.negatives: sampled; a user of the training set has had every item, so none is left to "
                "sample: set it to in_batch"
            )


def are_negatives(examples: Examples, indices: Indices) -> NDArray[np.bool_]:
    """Return which next items are candidates of user g in row g, (G, G). The diagonal holds each user's own next item.

    Another user's next item is no candidate if it equals the user's own or is in its history. It would punish a right
    answer.
    """
    targets = examples.targets[indices]
    known = [np.append(examples.whole_history(int(example)), examples.targets[example]) for example in indices]
    return np.stack([~np.isin(targets, items) for items in known]) | np.eye(len(indices), dtype=np.bool_)
