"""Keeps the best epoch of a training that validation ends, and lets an interrupted one go on after its last epoch."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from laser.cli.progress import progress
from laser.storage.files import whole_file

logger = logging.getLogger(__name__)

POSITION = "position"
"""Key of the file's metadata that holds everything but tensors, as JSON."""


class EarlyStopping:
    """Records each validated epoch. With a file, an equal training that starts again goes on where the last one was.

    On a CPU it ends with the same weights as one that was not interrupted, to the bit: the file holds the weights,
    those of the best epoch, the optimizer's state, and the states of torch's global generator and of `generator`.

    Args:
        model: is being trained.
        optimizer: of this model.
        patience: how many epochs may pass without a better score.
        path: the file, whose name holds a key of everything that the training depends on; None writes none.
        generator: a CPU generator that the training draws from.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        patience: int,
        path: Path | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.model, self.optimizer, self.patience, self.path = model, optimizer, patience, path
        self.generator = generator
        self.history: list[dict[str, float]] = []
        """The figures of each recorded epoch, with its number as `epoch`."""
        self.best, self.best_score = 0, -float("inf")
        """Place in the history of the best epoch, and its score."""
        self.train_seconds = 0.0
        """Seconds of the training steps so far; the caller adds to it."""
        self._weights: dict[str, Tensor] = {}
        self._seconds, self._started = 0.0, time.perf_counter()
        if path is not None and path.is_file():
            self._read(path)

    @property
    def epoch(self) -> int:
        """Number of the last recorded epoch; 0 before the first."""
        return int(self.history[-1]["epoch"]) if self.history else 0

    @property
    def seconds(self) -> float:
        """Seconds since the training started, without the time in which it was interrupted."""
        return self._seconds + time.perf_counter() - self._started

    def train(
        self, most_epochs: int, label: str, run: Callable[[int], tuple[dict[str, float], float] | None]
    ) -> dict[str, float]:
        """Run epochs until the score stops improving, and give the model the weights of the best one.

        Args:
            most_epochs: number of the last epoch at the latest.
            label: names the training in its progress.
            run: trains the epoch of this number; returns its figures, with its number as `epoch` and a `loss`, and its
                score; None if it was not validated.

        Returns:
            The figures of the best epoch.
        """
        label += f", from epoch {self.epoch + 1}" if self.epoch else ""
        with progress(range(self.epoch + 1, most_epochs + 1), label, "epoch") as epochs:
            for epoch in epochs:
                if self.history and self.epoch - self.history[self.best]["epoch"] >= self.patience:
                    break  # looked at before the epoch, because an interruption may come between
                found = run(epoch)
                if found is None:
                    continue
                self.record(*found)
                epochs.note(loss=found[0]["loss"], ndcg=found[1], best=self.best_score)
        self.model.load_state_dict(self._weights)
        return self.history[self.best]

    def record(self, figures: dict[str, float], score: float) -> None:
        """Record an epoch; `train` does so. A first call before it makes the untrained weights an epoch as well."""
        self.history.append(figures)
        if score > self.best_score or not self._weights:
            self.best, self.best_score = len(self.history) - 1, score
            self._weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        if self.path is not None:
            self._write(self.path)

    def _write(self, path: Path) -> None:
        position = {
            "history": self.history,
            "best": self.best,
            "best_score": self.best_score,
            "train_seconds": self.train_seconds,
            "seconds": self.seconds,
        }
        tensors = {f"weights {name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best {name}": value for name, value in self._weights.items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer {number} {name}": value for name, value in moments.items()}
        tensors["random"] = torch.get_rng_state()
        if self.generator is not None:
            tensors["random own"] = self.generator.get_state()
        copied = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
        with whole_file(path) as aside:
            save_file(copied, aside, {POSITION: json.dumps(position)})

    def _read(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:
                position: dict[str, Any] = json.loads(file.metadata()[POSITION])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it has no iterator
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            logger.warning("%s: not the state of a training (%s); training starts anew", path, error)
            return
        self.model.load_state_dict(_named(tensors, "weights "))
        device = next(self.model.parameters()).device
        self._weights = {name: value.to(device) for name, value in _named(tensors, "best ").items()}
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _named(tensors, "optimizer ").items():
            number, _, moment = name.partition(" ")
            state.setdefault(int(number), {})[moment] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        torch.set_rng_state(tensors["random"])
        if self.generator is not None:
            self.generator.set_state(tensors["random own"])
        self.history, self.best, self.best_score = position["history"], position["best"], position["best_score"]
        self.train_seconds, self._seconds = position["train_seconds"], position["seconds"]
        logger.info("an interrupted training goes on after its epoch %d", self.epoch)


def _named(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
