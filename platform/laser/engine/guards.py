"""Watches a training for losses that explode, a router that uses one expert, and memory that runs out."""

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite, log

import numpy as np
import torch
from numpy.typing import NDArray

from laser.config.schema import TrainingConfig

logger = logging.getLogger(__name__)

WINDOW = 20
"""Steps over which the loss is averaged, because a single hard batch is no explosion."""
COLLAPSED = 0.95
"""A router counts as collapsed if one expert is the first choice of at least this fraction of the histories."""
NAMED_USERS = 8
"""An error names at most this many users of a batch."""


class LossGuard:
    """Ends an epoch whose loss is not finite, or grows to a multiple of its start.

    The start is the mean of the epoch's first steps, and at least ln I: the loss of a uniform guess among all items.

    Args:
        label: names the epoch in the error.
        num_items: I.
        max_growth: the mean of the last steps may reach this multiple of the start; 0 sets no limit.
    """

    def __init__(self, label: str, num_items: int, max_growth: float) -> None:
        self.label, self.max_growth = label, max_growth
        self.floor = log(max(num_items, 2))
        self.start: float | None = None
        self.losses: deque[float] = deque(maxlen=WINDOW)

    def check(self, number: int, contrastive: float, load_balance: float, users: NDArray[np.int32]) -> None:
        """Check one step's losses.

        Args:
            number: the step's number in its epoch, from 0.
            contrastive: the step's contrastive loss.
            load_balance: the step's load-balance loss.
            users: ids of the batch's users.

        Raises:
            FloatingPointError: the loss is not finite or explodes; names epoch, step, losses, users and the settings to
                lower.
        """
        remedy = "lower training.learning_rate or set training.max_grad_norm"
        where = f"{self.label}, step {number + 1} (users {_named(users)})"
        if not isfinite(contrastive + load_balance):
            raise FloatingPointError(f"{where}: loss {contrastive}, load balance {load_balance}; {remedy}")
        self.losses.append(contrastive)
        if len(self.losses) < WINDOW:
            return
        mean = sum(self.losses) / WINDOW
        if self.start is None:
            self.start = max(mean, self.floor)
        if self.max_growth and mean > self.max_growth * self.start:
            raise FloatingPointError(
                f"{where}: the loss explodes: {mean:.4g} over the last {WINDOW} steps, {self.start:.4g} at first; "
                f"{remedy}, or raise training.max_loss_growth"
            )


def _named(users: NDArray[np.int32]) -> str:
    named = ", ".join(map(str, users[:NAMED_USERS].tolist()))
    return named if len(users) <= NAMED_USERS else f"{named} and {len(users) - NAMED_USERS} more"


def report_collapse(label: str, figures: Mapping[str, float]) -> None:
    """Warn if an epoch's figures show that the router nearly always chose the same expert first."""
    loads = {name: share for name, share in figures.items() if name.startswith("expert_load/")}
    if len(loads) < 2:
        return
    name, share = max(loads.items(), key=lambda item: item[1])
    if share >= COLLAPSED:
        logger.warning(
            "%s: the router has collapsed: expert %s is the first choice of %.0f %% of the histories; "
            "raise training.load_balance_weight or lower mformer.num_experts",
            label, name.partition("/")[2], 100 * share,
        )  # fmt: skip


@contextmanager
def memory_advice(training: TrainingConfig) -> Iterator[None]:
    """Turn a failed allocation into a MemoryError that names the settings to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        checkpointing = "" if training.gradient_checkpointing else "training.gradient_checkpointing=true, "
        sharding = "training.zero_stage=3 with more training.num_workers, " if training.zero_stage != 3 else ""
        raise MemoryError(
            f"out of memory ({str(error).splitlines()[0]}): lower training.micro_batch_size "
            f"(now {training.micro_batch_size}) and training.inference_batch_tokens (now "
            f"{training.inference_batch_tokens}), set {checkpointing}{sharding}and resume with resume=true: these "
            "settings do not change the result; or lower prompt.max_history_items in a new run"
        ) from error


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)  # the CPU allocator's words
