"""Shows the trials of a sweep while they run: a table in a terminal, a line for each epoch elsewhere."""

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from laser.config.compose import with_overrides
from laser.config.schema import Experiment
from laser.tracking.interface import EPOCH
from laser.tuning.sweep import Trial
from laser.tuning.trial import METRIC

logger = logging.getLogger(__name__)

COLUMNS = ("trial", "K", "L", "epoch", "loss", "NDCG@10", "histories/s", "time left")


@dataclass
class Row:
    """What is known of one trial."""

    name: str
    num_experts: int
    num_virtual_tokens: int
    num_epochs: int
    state: str = "starts"
    epoch: int | None = None
    loss: float | None = None
    score: float | None = None
    speed: float | None = None
    """Training histories a second, in the last epoch."""
    first: tuple[float, int] | None = None
    """When this session heard of the trial's first epoch, in seconds, and which one that was."""
    ends: float | None = None
    """When the trial will be done, in seconds, by the epochs of this session."""

    def take(self, metrics: Mapping[str, Any], now: float) -> None:
        """Take what an epoch has reported."""
        self.epoch, self.score = int(metrics[EPOCH]), float(metrics[METRIC])
        self.loss, self.speed = metrics.get("loss", self.loss), metrics.get("histories_per_second", self.speed)
        self.state = "trains"
        if self.first is None or self.epoch <= self.first[1]:
            self.first = (now, self.epoch)
        else:
            seconds = (now - self.first[0]) / (self.epoch - self.first[1])
            self.ends = now + seconds * (self.num_epochs - self.epoch)

    def cells(self, now: float) -> tuple[str, ...]:
        """Return the text of each column."""
        left = self.state
        if self.state == "trains" and self.ends is not None:
            left = _clock(max(0.0, self.ends - now))
        return (
            self.name,
            str(self.num_experts),
            str(self.num_virtual_tokens),
            "" if self.epoch is None else f"{self.epoch}/{self.num_epochs}",
            *("" if value is None else f"{value:.4f}" for value in (self.loss, self.score)),
            "" if self.speed is None else f"{self.speed:.1f}",
            left,
        )


class SweepTable:
    """Shows the trials that have started. In a terminal, `begin` and `end` frame the time in which it is alive."""

    def __init__(self, base: Experiment, num_trials: int | None) -> None:
        self.base, self.num_trials = base, num_trials
        self.rows: dict[str, Row] = {}
        self.live: Live | None = None
        self._handlers: list[tuple[logging.StreamHandler[TextIO], TextIO]] = []

    def begin(self) -> None:
        """Open the table, if standard error is a terminal. Messages appear above it from now on."""
        if not sys.stderr.isatty():
            return
        real = sys.stderr
        self.live = Live(console=Console(file=real), get_renderable=self._table, refresh_per_second=2)
        self.live.start()  # which replaces sys.stderr
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is real:
                self._handlers.append((handler, handler.setStream(sys.stderr) or real))

    def end(self) -> None:
        """Leave the table as it is now."""
        if self.live is not None:
            self.live.stop()
            self.live = None
        for handler, stream in self._handlers:
            handler.setStream(stream)
        self._handlers.clear()

    def started(self, trial: Trial) -> None:
        """Note that a trial starts or is tried again."""
        config = with_overrides(self.base, trial.overrides)
        mformer = config.mformer
        row = Row(trial.name, mformer.num_experts, mformer.num_virtual_tokens, config.num_epochs)
        self.rows[trial.name] = row
        self._show(row, "starts")

    def epoch(self, trial: Trial, metrics: Mapping[str, Any]) -> None:
        """Take what an epoch of a trial has reported. At its end a trial repeats its best one, which is no new line."""
        row = self.rows[trial.name]
        is_new = row.epoch != metrics[EPOCH]
        row.take(metrics, time.monotonic())
        if is_new:
            self._show(row, "")

    def ended(self, trial: Trial, state: str) -> None:
        """Note how a trial ended."""
        if trial.name in self.rows:
            self.rows[trial.name].state = state

    def _show(self, row: Row, words: str) -> None:
        if self.live is not None:
            return  # the table shows it
        cells = zip(COLUMNS[3:], row.cells(time.monotonic())[3:], strict=True)
        known = ", ".join(f"{name} {text}" for name, text in cells if text and text not in ("starts", "trains"))
        logger.info("trial %s: %s", row.name, words or known)

    def _table(self) -> Table:
        done = sum(row.state not in ("starts", "trains") for row in self.rows.values())
        table = Table(*COLUMNS[:1], caption=f"{done} of {self.num_trials or '?'} trials ended", caption_justify="left")
        for name in COLUMNS[1:]:
            table.add_column(name, justify="right")
        for row in list(self.rows.values()):
            table.add_row(*row.cells(time.monotonic()))
        return table


def _clock(seconds: float) -> str:
    """`0:40`, `12:05`, `1:02:30`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
