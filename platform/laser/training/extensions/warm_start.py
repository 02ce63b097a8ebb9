"""Warm start: trains the head on outputs of the frozen LLM, computed once (neither in the paper nor in its code).

A head on a frozen model can be trained without running the model. After one pass over all prefixes and items, an epoch
costs seconds, with the loss over the whole catalogue and its gradient to both sides. Stages 1 and 2 then start from a
representation that already ranks.

Shape suffixes: B batch, E examples, I items, H LLM width, D head width.
"""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from laser.config.identity import stage_key
from laser.config.schema import Experiment
from laser.data.batches import training_batches
from laser.engine.base import Engine
from laser.engine.losses import item_contrastive_loss
from laser.evaluation.metrics import SELECTION_METRIC
from laser.evaluation.pair_scores import PairScores
from laser.evaluation.ranking import user_ranks
from laser.evaluation.user_ranks import UserRanks
from laser.llm.loading import choose_dtype
from laser.models.batch import sent
from laser.models.calibration import EXPONENTS, Scores, sampled_users
from laser.models.early_stopping import EarlyStopping
from laser.models.head import ITEMS, USERS, Head
from laser.models.precision import products_in
from laser.storage.cache import make_once
from laser.training.extensions.outputs import Outputs, cached_outputs
from laser.training.inputs import Inputs
from laser.training.model import copied_head

logger = logging.getLogger(__name__)

CALIBRATION_PREFIXES = 2048
"""The common scale is tried on this many prefixes."""

LOSS = "loss"
"""Name of the loss beside the head's weights in the cache."""


@dataclass(frozen=True)
class WarmStart:
    """Holds the result of a warm start, which is the same on every worker."""

    untrained_val: dict[str, float]
    """Validation metrics before the warm start."""
    val: dict[str, float]
    loss: float
    """Mean loss of the kept epoch's steps; 0 if no epoch was better than the start."""
    items_ID: Tensor
    """The item embeddings of the whole catalogue."""


def warm_start(engine: Engine, inputs: Inputs, config: Experiment) -> WarmStart:
    """Standardise the head, train it on cached outputs, and put it into the engine's model (collective).

    The first worker trains, or finds a head that was trained in the same way; the others receive its weights.
    """
    outputs = cached_outputs(engine, inputs, config)
    fit = _Fit(engine, inputs, outputs, config)
    untrained = fit.validate().metrics()
    if config.head.standardise:
        fit.head.standardise(fit.prefixes_EH, USERS)
        fit.head.standardise(fit.items_IH, ITEMS)
    loss = 0.0
    if engine.rank == 0:
        loss = fit.train_once(outputs.name)
    weights = {f"head.{name}": value for name, value in fit.head.state_dict().items()}
    shared = {name: engine.sum(value * (engine.rank == 0)) for name, value in weights.items()}
    engine.load_trainable(engine.trainable_state() | {name: value.cpu() for name, value in shared.items()})
    fit.head.load_state_dict({name.removeprefix("head."): value for name, value in shared.items()})
    loss = float(engine.sum(torch.tensor(loss, device=engine.device)))
    return WarmStart(untrained, fit.validate().metrics(), loss, fit.items())


class _Fit:
    """Fits the head alone; holds everything that the head reads."""

    def __init__(self, engine: Engine, inputs: Inputs, outputs: Outputs, config: Experiment) -> None:
        assert inputs.prefixes is not None
        self.config, self.device = config, engine.device
        self.blocks = inputs.artifacts.recommender_blocks
        self.prefixes, self.val = inputs.prefixes, inputs.val
        artifacts = inputs.artifacts
        files = [artifacts.text_means]  # named by content
        if config.head.collaborative and config.head.joins == "before":
            files += [artifacts.item_embeddings, *artifacts.encodings.values()]
        self.states = sorted(file.name for file in files if file is not None)
        self.prefixes_EH, self.val_EH, self.items_IH = (
            part.to(self.device) for part in (outputs.prefixes_EH, outputs.val_EH, outputs.items_IH)
        )
        self.prefix_states_EC, self.val_states_EC, self.item_states_IC = (
            torch.from_numpy(part.states(np.arange(len(part)))).to(self.device)
            for part in (inputs.prefixes, inputs.val, inputs.items)
        )
        self.head: Head = copied_head(engine, config, artifacts).to(self.device)
        self.dtype = choose_dtype(config.llm.dtype, self.device)

    @torch.no_grad()
    def calibrate(self) -> None:
        """Choose the few single weights of the score (`laser.models.calibration`), before training the many others.

        The training loss of a sample then chooses a common scale, which changes no rank.
        """
        head = self.head.eval()
        if head.state_weight_C is None or head.joins_later:
            return
        random, val = np.random.default_rng(self.config.training.seed), self.val
        rows, blocks = sampled_users(len(val), len(self.items_IH), random), self.blocks
        states_SC, width = self.val_states_EC[rows], head.width - sum(blocks)
        users_SD = head(self.val_EH[rows], USERS, states_SC).vector_BD[:, :width] / head.text_scale
        own, items_ID = sent(val.own_items(rows), self.device), self.items()  # which no single weight changes
        targets_S = torch.from_numpy(val.examples.targets[rows].astype(np.int64)).to(self.device)
        scores = Scores.of(states_SC, self.item_states_IC, blocks, users_SD, items_ID[:, :width], own, targets_S)
        weights, bias = scores.best_weights(float(head.text_scale), head.history_bias is not None)
        prefixes, losses = random.permutation(len(self.prefixes))[:CALIBRATION_PREFIXES], []
        for exponent in EXPONENTS:
            head.set_weights(blocks, weights, bias, 2.0**exponent)
            losses.append(float(self._loss(prefixes, items_ID)))
        head.set_weights(blocks, weights, bias, 2.0 ** EXPONENTS[int(np.argmin(losses))])

    def train_once(self, outputs: str) -> float:
        """Calibrate and train, unless the cache holds the result; return the kept epoch's mean loss.

        Trials of a sweep that start from equal virtual tokens share the head, whatever their number of experts.

        Args:
            outputs: names what the head reads, but for the recommender's states.
        """
        digest, candidates = hashlib.sha256(), self.val.examples.candidates
        for name, weight in self.head.state_dict().items():
            if name != "counted_weight":  # which is 0, and which heads in older caches lack
                digest.update(weight.cpu().numpy().tobytes())
        digest.update(b"" if candidates is None else candidates.tobytes())
        training = self.config.training
        settings = (self.config.head, self.config.warm_start, training.temperature, training.seed)
        key = stage_key("head", 2, outputs, self.states, *settings, digest.hexdigest())
        path = Path(self.config.cache_dir).expanduser() / "heads" / f"{key}.safetensors"
        unfinished = path.with_suffix(".unfinished")

        def make(aside: Path) -> None:
            self.calibrate()
            save_file({LOSS: torch.tensor(self.train(unfinished)), **self.head.state_dict()}, aside)

        if make_once(path, make):
            unfinished.unlink(missing_ok=True)
        else:
            logger.info("warm start: the head is in the cache")
        weights = load_file(path)
        loss = float(weights.pop(LOSS))
        self.head.load_state_dict(weights)
        return loss

    def train(self, unfinished: Path) -> float:
        """Train, or go on from the file `unfinished`, and return the mean loss of the epoch that is kept."""
        settings = self.config.warm_start
        singles = [p for p in self.head.parameters() if p.numel() == 1]
        others = [p for p in self.head.parameters() if p.numel() > 1]
        optimizer = torch.optim.AdamW(
            [
                {"params": singles, "lr": settings.scale_learning_rate, "weight_decay": 0.0},
                {"params": others, "lr": settings.learning_rate, "weight_decay": settings.weight_decay},
            ]
        )
        inputs_IF = self.head.inputs(self.items_IH, ITEMS, self.item_states_IC)

        def run(epoch: int) -> tuple[dict[str, float], float]:
            with products_in(self.dtype):
                loss = self._epoch(optimizer, epoch, inputs_IF)
            return {"epoch": epoch, "loss": loss}, self.validate().metrics()[SELECTION_METRIC]

        with torch.random.fork_rng():
            torch.manual_seed(self.config.training.seed)  # for dropout
            stopping = EarlyStopping(self.head, optimizer, settings.patience, unfinished)
            if not stopping.history:
                stopping.record({"epoch": 0, "loss": 0.0}, self.validate().metrics()[SELECTION_METRIC])
            best = stopping.train(settings.epochs, "warm start", run)
        logger.info("warm start: validation NDCG@10 %.4f after epoch %d", stopping.best_score, best["epoch"])
        return best["loss"]

    def _epoch(self, optimizer: torch.optim.Optimizer, epoch: int, inputs_IF: Tensor) -> float:
        self.head.train()
        training, total = self.config.training, 0.0
        # The head reads no text, so batches need not group histories of equal length.
        for indices in training_batches(
            np.zeros(len(self.prefixes), np.int64), self.config.warm_start.batch_size, training.seed, epoch
        ):
            items = self.head.compared(inputs_IF, ITEMS, self.item_states_IC)
            loss = self._loss(indices, items.vector_BD)
            if not loss.isfinite():
                raise FloatingPointError(
                    f"warm start, epoch {epoch}: loss {float(loss)}; lower warm_start.learning_rate or "
                    "warm_start.scale_learning_rate"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(indices)
        return total / len(self.prefixes)

    def _loss(self, indices: NDArray[np.int64], items_ID: Tensor) -> Tensor:
        """Return the mean loss over some prefixes."""
        targets_B = torch.from_numpy(self.prefixes.examples.targets[indices].astype(np.int64)).to(self.device)
        rows = torch.from_numpy(indices).to(self.device)
        users = self.head(self.prefixes_EH[rows], USERS, self.prefix_states_EC[rows])
        loss = item_contrastive_loss(
            users.vector_BD,
            items_ID,
            targets_B,
            torch.ones(len(indices), device=self.device),
            self.config.training.temperature,
            users.history_bias,
            sent(self.prefixes.own_items(indices), self.device),
        )
        return loss / len(indices)

    @torch.no_grad()
    def items(self) -> Tensor:
        """Return the item embeddings of the whole catalogue, without dropout."""
        self.head.eval()
        return self.head(self.items_IH, ITEMS, self.item_states_IC).vector_BD

    @torch.no_grad()
    def validate(self) -> UserRanks:
        """Rank the validation users' targets."""
        examples, found = self.val.examples, []
        items_ID = self.items() if examples.candidates is None else self.items()[examples.candidates]
        for rows in torch.arange(len(self.val), device=self.device).split(4096):
            users = self.head(self.val_EH[rows], USERS, self.val_states_EC[rows])
            targets, own = examples.wanted(rows.cpu().numpy())
            targets_B = torch.from_numpy(targets).to(self.device)
            bias = 0.0 if users.history_bias is None else float(users.history_bias)
            pairs = PairScores.of(own, len(items_ID), self.device)
            found.append(torch.stack(user_ranks(users.vector_BD, items_ID, targets_B, pairs, bias)))
        ranks_E, masked_E = torch.cat(found, dim=1).cpu().numpy()
        return UserRanks(examples.users, examples.targets, ranks_E, masked_E)
