"""What watches a training: losses that leave all bounds, a router that uses one expert, memory that is not there."""

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
"""Steps whose mean loss is looked at: a single hard batch is no explosion."""
COLLAPSED = 0.95
"""Share of the histories with one first choice from which on a router counts as collapsed."""
NAMED_USERS = 8
"""Users of a batch that an error names."""


class LossGuard:
    """Ends an epoch whose loss is not finite, or grows to a multiple of where it began.

    It began at the mean of the epoch's first steps, or at ln I where that is more: the loss of a uniform guess among
    all items.

    Args:
        label: names the epoch in the error.
        num_items: I.
        max_growth: the multiple, over the mean of the last steps; 0 looks for infinite losses alone.
    """

    def __init__(self, label: str, num_items: int, max_growth: float) -> None:
        self.label, self.max_growth = label, max_growth
        self.floor = log(max(num_items, 2))
        self.start: float | None = None
        self.losses: deque[float] = deque(maxlen=WINDOW)

    def check(self, number: int, contrastive: float, load_balance: float, users: NDArray[np.int32]) -> None:
        """Look at one step's losses.

        Args:
            number: the step's number in its epoch, from 0.
            contrastive: its contrastive loss.
            load_balance: its load-balance loss.
            users: ids of the batch's users.

        Raises:
            FloatingPointError: names epoch, step, losses, users and the settings to lower.
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
    """Warn of a router whose first choice is nearly always the same expert, from the figures of an epoch."""
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
    """Turn an allocation that failed into a MemoryError that names the settings to lower."""
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
            f"{training.inference_batch_tokens}), set {checkpointing}{sharding}and go on with resume=true: the result "
            "stays; or lower prompt.max_history_items in a run of its own"
        ) from error


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)  # the CPU allocator's words
