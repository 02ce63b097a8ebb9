"""Trains the two stages (arXiv 2409.01605, section 5 of docs/method.md); a run can resume after each epoch.

- Stage 0 is optional. It encodes users and items in each step (`laser.training.extensions.two_sided`).
- Stage 1 encodes the catalogue at the end of each epoch. Validation reads this encoding, and the next epoch trains
  against it, unchanged.
- Stage 2 keeps one encoding of the catalogue throughout.
- The recommender's product may join the score after all stages (`laser.training.extensions.joining`).

Each stage starts from the weights and item embeddings of the best epoch so far, and resets Adam. The best epoch is the
one with the highest validation NDCG@10. The test set is read once, at the end.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from pathlib import Path

import torch
from torch import Tensor

from laser.config.schema import Experiment
from laser.engine.base import Engine
from laser.engine.deepspeed_private import whole_numel
from laser.engine.peak import peak_memory
from laser.engine.schedule import Schedule
from laser.engine.step import Step
from laser.evaluation.metrics import SELECTION_METRIC
from laser.evaluation.user_ranks import TEST_RANKS
from laser.models.head import COUNTED_WEIGHT
from laser.tracking.interface import Report
from laser.training.extensions.alignment import align
from laser.training.extensions.joining import join
from laser.training.extensions.two_sided import TwoSidedStep
from laser.training.extensions.warm_start import warm_start
from laser.training.inputs import Inputs
from laser.training.loop import CatalogueStep, encode_items, evaluate, train_epoch
from laser.training.run.checkpoint import (
    TrainingState,
    check_same_settings,
    checkpoint_name,
    dependent_settings,
    discard_checkpoints,
    latest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from laser.training.run.history import History, write_history
from laser.training.run.outcome import Outcome, best_metrics, epoch_metrics, prefixed, write_outcome
from laser.training.run.transfer import starting_weights

logger = logging.getLogger(__name__)
JOINED = 3
"""The stage in which the recommender's product joins the score; nothing is trained in it."""


class TwoStageTraining:
    """Trains one engine's model through all stages. All workers run it in step with one another."""

    def __init__(self, engine: Engine, inputs: Inputs, config: Experiment, run_dir: Path, report: Report) -> None:
        self.engine, self.inputs, self.config, self.report = engine, inputs, config, report
        self.run_dir, self.directory = run_dir, run_dir / "checkpoints"
        self.training = config.training
        self.num_epochs = (self.training.stage0_epochs, self.training.stage1_epochs, self.training.stage2_epochs)
        self.settings = dependent_settings(config, inputs.dataset.fingerprint, inputs.artifacts.llm_content)
        self.started = time.perf_counter()

    def run(self) -> Outcome:
        """Train the epochs that are not done yet, then test once.

        Raises:
            FloatingPointError: the loss is not finite or explodes. The last epoch's checkpoint stays.
        """
        state, item_embeddings_IH = self._start()
        for stage, num_epochs in enumerate(self.num_epochs):
            while state.stage <= stage and self._epochs_done(state, stage) < num_epochs:
                if state.stage < stage:
                    item_embeddings_IH = self._load_best(state, item_embeddings_IH)
                figures = self._train(state, item_embeddings_IH, stage)
                if stage < 2:
                    item_embeddings_IH = encode_items(self.engine, self.inputs.items, self.training)
                state = self._end_epoch(state, stage, figures, item_embeddings_IH)
        if self.config.joins_after and state.stage < JOINED:
            item_embeddings_IH = self._load_best(state, item_embeddings_IH)
            figures, item_embeddings_IH = join(self.engine, self.inputs, item_embeddings_IH, self.config)
            state = self._end_epoch(state, JOINED, figures, item_embeddings_IH)
        return self._finish(state, item_embeddings_IH)

    @staticmethod
    def _epochs_done(state: TrainingState, stage: int) -> int:
        return state.stage_epoch if state.stage == stage else 0

    def _start(self) -> tuple[TrainingState, Tensor]:
        """Resume from the last whole checkpoint, or encode and validate the starting weights.

        These are random, taken from another run, or aligned. What has joined there leaves if there is anything to
        train, and joins anew at the end.
        """
        checkpoint = latest_checkpoint(self.directory)
        if checkpoint is not None:
            state = checkpoint.state
            check_same_settings(state, self.settings)
            self.engine.load_trainable(checkpoint.trainable())
            self.engine.load_optimizer(checkpoint.optimizer())
            if self.engine.rank == 0:
                write_history(self.run_dir, History(state.history, state.best, state.seconds))
            logger.info("resumed after %s", checkpoint.name)
            self.started -= state.seconds
            return state, checkpoint.item_embeddings().to(self.engine.device)
        if self.training.start_from is not None:
            start = starting_weights(self.training.start_from, self.engine.laser)
            if self.config.joins_after:
                start |= {name: torch.zeros_like(start[name]) for name in ("head.state_unit_C", COUNTED_WEIGHT)}
            self.engine.load_trainable(self.engine.trainable_state() | start)
        aligned = align(self.engine, self.inputs.items, self.training)
        if self.config.warms_up_head:
            return self._warm_start()
        item_embeddings_IH = encode_items(self.engine, self.inputs.items, self.training)
        state = self._untrained({**aligned, **self._validate(item_embeddings_IH, "validate untrained")})
        return self._save(state, item_embeddings_IH), item_embeddings_IH

    def _untrained(self, metrics: dict[str, float]) -> TrainingState:
        self.report(metrics, 0)
        return TrainingState(0, 0, 0, None, float("-inf"), self.settings, [{"epoch": 0.0, **metrics}])

    def _warm_start(self) -> tuple[TrainingState, Tensor]:
        """Prepare the head. The warm start counts as the first epoch, and selection may choose it."""
        started = time.perf_counter()
        warm = warm_start(self.engine, self.inputs, self.config)
        state = self._untrained(prefixed("val", warm.untrained_val))
        metrics = {"loss": warm.loss, "stage": 0.0, "train_seconds": time.perf_counter() - started}
        metrics |= prefixed("val", warm.val)
        state = replace(
            state,
            epoch=1,
            best=checkpoint_name(0, 0),
            best_score=warm.val[SELECTION_METRIC],
            history=[*state.history, {"epoch": 1.0, **metrics}],
            seconds=time.perf_counter() - self.started,
        )
        state = self._save(state, warm.items_ID)
        self.report(metrics, 1)
        return state, warm.items_ID

    def _train(self, state: TrainingState, item_embeddings_IH: Tensor, stage: int) -> dict[str, float]:
        engine, train, training = self.engine, self.inputs.train, self.training
        done, num_steps = self._epochs_done(state, stage), ceil(len(train) / training.batch_size)
        before = state.epoch - int(self.config.warms_up_head)  # the warm start counts as an epoch
        schedule = Schedule(training, num_steps * before, num_steps * done, num_steps * sum(self.num_epochs))
        step: Step = CatalogueStep(engine, train, item_embeddings_IH, training)
        if stage == 0:
            step = TwoSidedStep(engine, train, self.inputs.items, training, state.epoch)
        label = f"stage {stage} epoch {done + 1}"
        num_items = len(self.inputs.items)
        with peak_memory() as peak:
            figures = train_epoch(engine, train, step, training, state.epoch, label, schedule, num_items)
        return figures if peak.mib is None else {**figures, "peak_mib": peak.mib}

    def _end_epoch(
        self, state: TrainingState, stage: int, figures: Mapping[str, float], item_embeddings_IH: Tensor
    ) -> TrainingState:
        stage_epoch = self._epochs_done(state, stage) + 1
        metrics = {**figures, **self._validate(item_embeddings_IH, f"validate stage {stage} epoch {stage_epoch}")}
        metrics["stage"] = float(stage)
        score, epoch = metrics[f"val/{SELECTION_METRIC}"], state.epoch + 1
        better = score > state.best_score
        state = replace(
            state,
            stage=stage,
            stage_epoch=stage_epoch,
            epoch=epoch,
            best=checkpoint_name(stage, stage_epoch) if better else state.best,
            best_score=score if better else state.best_score,
            history=[*state.history, {"epoch": float(epoch), **metrics}],
            seconds=time.perf_counter() - self.started,
            tokens=state.tokens + int(figures.get("tokens", 0)),
        )
        state = self._save(state, item_embeddings_IH)
        if self.engine.rank == 0:
            what = f"stage {stage} epoch {stage_epoch}: loss {metrics['loss']:.4f}" if stage < JOINED else "joined"
            logger.info("%s, validation NDCG@10 %.4f%s", what, score, " (best so far)" if better else "")
        self.report(metrics, epoch)
        return state

    def _validate(self, item_embeddings_IH: Tensor, label: str) -> dict[str, float]:
        ranks = evaluate(self.engine, self.inputs.val, item_embeddings_IH, self.training, label)
        return prefixed("val", ranks.metrics())

    def _save(self, state: TrainingState, item_embeddings_IH: Tensor) -> TrainingState:
        """Gather the weights on all workers, write them on the first, and return when they are on disk."""
        trainable, optimizer = self.engine.trainable_state(), self.engine.optimizer_state()
        if self.engine.rank == 0:
            checkpoint = write_checkpoint(self.directory, state, trainable, optimizer, item_embeddings_IH.cpu())
            write_history(self.run_dir, History(state.history, state.best, state.seconds))
            discard_checkpoints(self.directory, {checkpoint.name, *([state.best] if state.best else [])})
        self._barrier()
        return state

    def _load_best(self, state: TrainingState, item_embeddings_IH: Tensor) -> Tensor:
        """Load the best epoch's weights, reset Adam, and return that epoch's item embeddings."""
        if state.best is None:  # no epoch has ended yet, so the untrained model is the start
            return item_embeddings_IH
        best = read_checkpoint(self.directory / state.best)
        self.engine.load_trainable(best.trainable())
        self.engine.load_optimizer(None)
        return best.item_embeddings().to(self.engine.device)

    def _finish(self, state: TrainingState, item_embeddings_IH: Tensor) -> Outcome:
        seconds = time.perf_counter() - self.started
        selected = state.best or checkpoint_name(0, 0)
        item_embeddings_IH = self._load_best(state, item_embeddings_IH)
        test = None
        if self.training.test:
            ranks = evaluate(self.engine, self.inputs.test, item_embeddings_IH, self.training, "test", lists=True)
            test = ranks.metrics()
            if self.engine.rank == 0:
                ranks.write(self.run_dir / TEST_RANKS)
        chosen = read_checkpoint(self.directory / selected) if state.best else None
        train_seconds = sum(row.get("train_seconds", 0.0) for row in state.history)
        outcome = Outcome(
            val=best_metrics(chosen) if chosen else epoch_metrics(state.history[0]),
            test=test,
            untrained_val=epoch_metrics(state.history[0]),
            selected=selected,
            epochs=state.epoch,
            trainable_parameters=sum(whole_numel(p) for p in self.engine.laser.trainable_parameters().values()),
            tokens_per_second=state.tokens / train_seconds if train_seconds else 0.0,
            seconds=seconds,
        )
        if self.engine.rank == 0:
            write_outcome(self.run_dir, outcome)
        self._barrier()
        return outcome

    def _barrier(self) -> None:
        self.engine.sum(torch.zeros(1, device=self.engine.device))
