"""Warm start: the head is trained on outputs of the frozen LLM that are computed once (neither paper nor its code).

Whatever follows a frozen model can be trained without running it. After one pass over all prefixes and items, the loss
over the whole catalogue with its gradient to both sides costs seconds an epoch; stages 1 and 2 then start from a
representation that already ranks.

Shape suffixes: B batch, E examples, I items, H LLM width, D head width.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from laser.config.progress import progress
from laser.config.schema import Experiment
from laser.data.batches import training_batches
from laser.evaluation.user_ranks import UserRanks
from laser.models.head import ITEMS, USERS, Head, Side
from laser.models.laser import build_head
from laser.training.engine import Engine
from laser.training.inputs import Histories, Inputs
from laser.training.loop import user_ranks
from laser.training.losses import item_contrastive_loss
from laser.training.outcome import SELECTION_METRIC
from laser.training.outputs import Outputs, cached_outputs

logger = logging.getLogger(__name__)

CALIBRATION = 2048
"""Validation users, and prefixes, that single weights are tried on."""
EXPONENTS = range(-8, 9)
"""Powers of 2 that are tried for a weight."""


@dataclass(frozen=True)
class WarmStart:
    """What it leaves, the same on every worker."""

    untrained_val: dict[str, float]
    """Validation metrics before anything was fitted."""
    val: dict[str, float]
    loss: float
    """Mean loss of the kept epoch's steps; 0 where none was better than the start."""
    items_ID: Tensor
    """What is compared of all items."""


def warm_start(engine: Engine, inputs: Inputs, config: Experiment) -> WarmStart:
    """Standardise and train the head on cached outputs, and put it into the engine's model (collective).

    The first worker trains; the others take over what it has found.
    """
    outputs = cached_outputs(engine, inputs, config)
    fit = _Fit(engine, inputs, outputs, config)
    untrained = fit.validate().metrics()
    if config.head.standardise:
        fit.head.standardise(fit.prefixes_EH, USERS)
        fit.head.standardise(fit.items_IH, ITEMS)
    fit.calibrate()
    loss = fit.train() if engine.rank == 0 else 0.0
    weights = {f"head.{name}": value for name, value in fit.head.state_dict().items()}
    shared = {name: engine.sum(value * (engine.rank == 0)) for name, value in weights.items()}
    engine.load_trainable(engine.trainable_state() | {name: value.cpu() for name, value in shared.items()})
    fit.head.load_state_dict({name.removeprefix("head."): value for name, value in shared.items()})
    loss = float(engine.sum(torch.tensor(loss, device=engine.device)))
    return WarmStart(untrained, fit.validate().metrics(), loss, fit.items())


class _Fit:
    """The head by itself, and all that it reads."""

    def __init__(self, engine: Engine, inputs: Inputs, outputs: Outputs, config: Experiment) -> None:
        assert inputs.prefixes is not None
        self.config, self.device, self.inputs = config, engine.device, inputs
        self.prefixes, self.val = inputs.prefixes, inputs.val
        self.prefixes_EH, self.val_EH, self.items_IH = (
            part.to(self.device) for part in (outputs.prefixes_EH, outputs.val_EH, outputs.items_IH)
        )
        self.states = {id(part): self._states(part) for part in (inputs.prefixes, inputs.val, inputs.items)}
        head = build_head(config.head, engine.laser.llm_width, inputs.recommender_width)
        assert head is not None
        weights = {name.removeprefix("head."): value for name, value in engine.trainable_state().items()}
        head.load_state_dict({name: weights[name] for name in head.state_dict()})
        self.head: Head = head.to(self.device)

    def _states(self, part: Histories) -> Tensor:
        return torch.from_numpy(part.states(np.arange(len(part)))).to(self.device)

    @torch.no_grad()
    def calibrate(self) -> None:
        """Set the few single weights of the score before the many are trained: their units know nothing of each other.

        A learning rate that suits the rest does not get from one order of magnitude to the next. So powers of 2 are
        tried: for each of the recommender's blocks, the cosine and the history bias by the NDCG@10 of a sample of the
        validation users, one after the other, twice; then for all together, which changes no rank, by the training
        loss of a sample.
        """
        if self.head.state_weight_C is None:
            return
        head, starts = self.head, np.cumsum([0, *self.inputs.recommender_blocks])
        parts = [head.state_unit_C[start:end] for start, end in pairwise(starts)] + [head.text_scale.data]
        bias = None if head.history_bias is None else head.history_bias.data
        random = np.random.default_rng(self.config.training.seed)
        some = torch.from_numpy(np.sort(random.permutation(len(self.val))[:CALIBRATION]))

        def ndcg() -> float:
            return self.validate(some).metrics()[SELECTION_METRIC]

        for start, end in pairwise(starts):  # each block's best item at 1, on average
            users_BC, items_IC = (
                self.states[id(self.val)][some, start:end],
                self.states[id(self.inputs.items)][:, start:end],
            )
            head.state_unit_C[start:end] = 1 / (users_BC @ items_IC.T).amax(dim=1).mean().clamp(min=1e-20)
        for exponents in (EXPONENTS, (0, -1, 1)):
            for part in parts[1:]:
                self._try(part, [part * 2.0**exponent for exponent in exponents], ndcg)
            if bias is not None:
                first = [torch.zeros_like(bias), *(torch.full_like(bias, -(2.0**exponent)) for exponent in EXPONENTS)]
                again = [bias * 2.0**exponent for exponent in exponents]
                self._try(bias, first if exponents is EXPONENTS else again, ndcg)
        sample = random.permutation(len(self.prefixes))[:CALIBRATION]
        together = torch.cat([*parts, *([] if bias is None else [bias])])
        parts += [] if bias is None else [bias]

        def fit() -> float:
            for part, values in zip(parts, together.split([len(part) for part in parts]), strict=True):
                part.copy_(values)
            return -float(self._loss(sample))

        self._try(together, [together * 2.0**exponent for exponent in EXPONENTS], fit)
        fit()

    @staticmethod
    def _try(part: Tensor, candidates: Sequence[Tensor], score: Callable[[], float]) -> None:
        """Leave the candidate with the highest score in place; of equal ones the first."""
        scores = []
        for candidate in candidates:
            part.copy_(candidate)
            scores.append(score())
        part.copy_(candidates[int(np.argmax(scores))])

    def _ndcg(self) -> float:
        return self.validate().metrics()[SELECTION_METRIC]

    def train(self) -> float:
        """Train until validation stops improving and keep the best epoch, the start among them; its mean loss."""
        settings = self.config.warm_start
        singles = [p for p in self.head.parameters() if p.numel() == 1]
        others = [p for p in self.head.parameters() if p.numel() > 1]
        optimizer = torch.optim.AdamW(
            [
                {"params": singles, "lr": settings.scale_learning_rate, "weight_decay": 0.0},
                {"params": others, "lr": settings.learning_rate, "weight_decay": settings.weight_decay},
            ]
        )
        best, best_epoch, best_loss = self._weights(), 0, 0.0
        best_score = self._ndcg()
        with torch.random.fork_rng(), progress(range(1, settings.epochs + 1), "warm start", "epoch") as epochs:
            torch.manual_seed(self.config.training.seed)  # of the dropout
            for epoch in epochs:
                loss = self._epoch(optimizer, epoch)
                score = self._ndcg()
                epochs.note(loss=loss, ndcg=score, best=max(score, best_score))
                if score > best_score:
                    best, best_score, best_epoch, best_loss = self._weights(), score, epoch, loss
                if epoch - best_epoch >= settings.patience:
                    break
        self.head.load_state_dict(best)
        logger.info("warm start: validation NDCG@10 %.4f after epoch %d", best_score, best_epoch)
        return best_loss

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.head.state_dict().items()}

    def _epoch(self, optimizer: torch.optim.Optimizer, epoch: int) -> float:
        self.head.train()
        training, total = self.config.training, 0.0
        # Every batch is as good as another here, so their lengths are not looked at.
        for indices in training_batches(
            np.zeros(len(self.prefixes), np.int64), self.config.warm_start.batch_size, training.seed, epoch
        ):
            loss = self._loss(indices)
            if not loss.isfinite():
                raise FloatingPointError(f"warm start, epoch {epoch}: loss {float(loss)}; lower its learning rates")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(indices)
        return total / len(self.prefixes)

    def _loss(self, indices: NDArray[np.int64]) -> Tensor:
        """Mean over some prefixes."""
        targets_B = torch.from_numpy(self.prefixes.examples.targets[indices].astype(np.int64)).to(self.device)
        rows = torch.from_numpy(indices).to(self.device)
        users = self.head(self.prefixes_EH[rows], Side(USERS, self.states[id(self.prefixes)][rows]))
        loss = item_contrastive_loss(
            users.vector_BD,
            self._item_vectors(),
            targets_B,
            torch.ones(len(indices), device=self.device),
            self.config.training.temperature,
            users.history_bias,
            self.prefixes.own_items(indices, self.device),
        )
        return loss / len(indices)

    def _item_vectors(self) -> Tensor:
        return self.head(self.items_IH, Side(ITEMS, self.states[id(self.inputs.items)])).vector_BD

    @torch.no_grad()
    def items(self) -> Tensor:
        """What is compared of all items, without dropout."""
        self.head.eval()
        return self._item_vectors()

    @torch.no_grad()
    def validate(self, some: Tensor | None = None) -> UserRanks:
        """Ranks of the validation items, of all users or of some rows."""
        items_ID = self.items()
        examples, ranks = self.val.examples, []
        rows_E = torch.arange(len(self.val)) if some is None else some
        targets_E = torch.from_numpy(examples.targets.astype(np.int64)).to(self.device)
        for rows in rows_E.to(self.device).split(4096):
            users = self.head(self.val_EH[rows], Side(USERS, self.states[id(self.val)][rows]))
            own = [examples.whole_history(index) for index in rows.tolist()]
            bias = 0.0 if users.history_bias is None else float(users.history_bias)
            ranks.append(torch.stack(user_ranks(users.vector_BD, items_ID, targets_E[rows], own, bias)))
        ranks_E, masked_E = torch.cat(ranks, dim=1).cpu().numpy()
        return UserRanks(examples.users[rows_E], examples.targets[rows_E], ranks_E, masked_E)
