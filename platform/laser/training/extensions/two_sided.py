"""Stage 0: users and items are encoded in the same step, and both receive gradient.

The released code warms up so before stage 1; the paper does not mention it. The candidates of a user are its next item
and either a few sampled items (as the released code has it) or the next items of the other users of the batch.

Shape suffixes: B examples of a micro-batch, G of the global batch, M candidates of an example, R real examples of a
micro-batch, D width of what is compared; 2 stands for users and their next items. A head's history bias has no part in
it: of a user's own items the next one alone is a candidate.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from laser.config.schema import TrainingConfig
from laser.data.examples import Examples
from laser.engine.base import Batch, Engine
from laser.errors import UserError
from laser.models.head import Side, Sides
from laser.models.laser import LaserOutput
from laser.training.inputs import Histories
from laser.training.losses import candidate_contrastive_loss, load_balance_loss
from laser.training.step import StepResult, choice_fractions, own_share, real_items

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class _MicroBatch:
    users: Batch
    both: Batch
    """The users, and below them the candidates of the first, of the second, …: one pass for all, so that ZeRO-3 sees
    one forward for each backward."""
    rows_R: Tensor
    """Places in the global batch; those that only fill a share come last and have none."""


class TwoSidedStep:
    """Takes the optimizer steps of one epoch of stage 0; the result is the same for every number of workers.

    Args:
        engine: this worker's model and optimizer.
        histories: training examples.
        items: each item as a history of one item, by id.
        config: kind and number of negatives, micro-batches, temperature.
        epoch: epochs done before; with the seed it decides which negatives are drawn.
    """

    def __init__(
        self, engine: Engine, histories: Histories, items: Histories, config: TrainingConfig, epoch: int
    ) -> None:
        self.engine, self.histories, self.items, self.config, self.epoch = engine, histories, items, config, epoch
        self.num_candidates = 1 + (config.num_negatives if config.negatives == "sampled" else 0)

    def __call__(self, indices: Indices, number: int, learning_rate_factor: float) -> StepResult:
        """Forward, backward and update over one global batch, the `number`-th of the epoch."""
        engine, config = self.engine, self.config
        micro_batches = self._micro_batches(indices)
        users = [micro.users for micro in micro_batches]
        counted = [[float(real_items(m.users).sum()), float(m.both.num_tokens)] for m in micro_batches]
        num_items, num_tokens = engine.sum(torch.tensor(counted, device=engine.device).double().sum(dim=0)).tolist()
        fractions_K = choice_fractions(engine, users, num_items)
        totals = torch.zeros(2 + engine.laser.num_experts, device=engine.device, dtype=torch.float64)
        gradient_2GD: Tensor | None = None
        outputs: Sequence[LaserOutput | None] = [None] * len(micro_batches)
        if config.negatives == "in_batch":
            whole, gradient_2GD, outputs = self._in_batch(micro_batches, indices, number)
            totals[0] = whole / engine.world_size  # every worker has computed all of it
        for place, micro in enumerate(micro_batches):
            output = outputs[place] or self._forward(micro, number, place)
            if gradient_2GD is None:
                loss = self._sampled(output, micro) / len(indices)
                totals[0] += loss.detach()
            else:  # the whole batch's loss by the chain rule
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
        engine.step(learning_rate_factor)
        totals = engine.sum(totals).cpu()
        virtual = len(indices) * self.num_candidates * engine.laser.num_added_tokens
        return StepResult(float(totals[0]), float(totals[1]), totals[2:], len(indices), int(num_tokens) + virtual)

    def _sampled(self, output: LaserOutput, micro: _MicroBatch) -> Tensor:
        """The sum of the losses of a micro-batch's users over their own candidates, the next item first."""
        size = len(micro.users.weights_B)
        user_B1D, item_BMD = output.vector_BD[:size, None], output.vector_BD[size:].unflatten(0, (size, -1))
        targets_B = torch.zeros(size, dtype=torch.int64, device=user_B1D.device)
        scores_BM = (user_B1D * item_BMD).sum(dim=-1)
        return candidate_contrastive_loss(scores_BM, targets_B, micro.users.weights_B, self.config.temperature)

    def _in_batch(
        self, micro_batches: Sequence[_MicroBatch], indices: Indices, number: int
    ) -> tuple[Tensor, Tensor, Sequence[LaserOutput | None]]:
        """The loss over the global batch, its gradient to all representations, and the passes that need no repetition.

        Each user's candidates are in other micro-batches and with other workers. So all are first encoded without
        gradient and gathered; the gradient of the loss is then handed to a second pass of each micro-batch (arXiv
        2101.06983). A share that is one micro-batch is passed once.
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

    def _micro_batches(self, indices: Indices) -> list[_MicroBatch]:
        """This worker's share, so cut that no pass reads more histories and items than `micro_batch_size`."""
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
            items = self.items.batch(
                candidates.reshape(-1), np.repeat(part_weights, self.num_candidates).tolist(), engine.device
            )
            rows_R = torch.from_numpy(rows[start : start + at_once]).to(engine.device)
            micro_batches.append(_MicroBatch(users, joined(users, items), rows_R))
        return micro_batches

    def _negatives(self, example: int) -> Indices:
        """Items drawn for an example in this epoch: neither its target nor of its history; one may come twice."""
        examples = self.histories.examples
        known = {*examples.whole_history(example).tolist(), int(examples.targets[example])}
        if len(known) >= len(self.items):
            raise UserError(
                "training.negatives: sampled; a user of the training set has had every item, so none is left to "
                "sample: set it to in_batch"
            )
        random = np.random.default_rng([self.config.seed, self.epoch, example])
        drawn: list[int] = []
        while len(drawn) < self.config.num_negatives:
            drawn += [item for item in random.integers(len(self.items), size=16).tolist() if item not in known]
        return np.array(drawn[: self.config.num_negatives])

    def _forward(self, micro: _MicroBatch, number: int, place: int) -> LaserOutput:
        """One pass; a second one draws the same dropout as the first."""
        where = [self.config.seed, self.epoch, number, place, self.engine.rank]
        torch.manual_seed(int(np.random.default_rng(where).integers(2**62)))
        return self.engine.forward(micro.both)


def are_negatives(examples: Examples, indices: Indices) -> NDArray[np.bool_]:
    """Whose next item competes with whose, (G, G): row g's candidates, the own one on the diagonal.

    The same item as the own target is none, nor is one that the user has had before: they would punish what is right.
    """
    targets = examples.targets[indices]
    known = [np.append(examples.whole_history(int(example)), examples.targets[example]) for example in indices]
    return np.stack([~np.isin(targets, items) for items in known]) | np.eye(len(indices), dtype=np.bool_)


def joined(above: Batch, below: Batch) -> Batch:
    """The rows of two batches below each other, padded to the longer."""

    def stacked(one: Tensor, other: Tensor) -> Tensor:
        wider = max(one.shape[1], other.shape[1])
        rest = (0,) * 2 * (one.dim() - 2)
        return torch.cat([F.pad(part, (*rest, 0, wider - part.shape[1])) for part in (one, other)])

    assert isinstance(above.of, Side) and isinstance(below.of, Side)
    return replace(
        above,
        of=Sides(above.of, below.of),
        own_items=None,
        token_ids_BT=stacked(above.token_ids_BT, below.token_ids_BT),
        token_mask_BT=stacked(above.token_mask_BT, below.token_mask_BT),
        encoding_BNC=stacked(above.encoding_BNC, below.encoding_BNC),
        encoding_mask_BN=stacked(above.encoding_mask_BN, below.encoding_mask_BN),
        targets_B=torch.cat([above.targets_B, below.targets_B]),
        weights_B=torch.cat([above.weights_B, below.weights_B]),
        num_tokens=above.num_tokens + below.num_tokens,
    )
