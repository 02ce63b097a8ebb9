"""Where the rows of the text cache lie while a device reads them.

A CPU reads the mapped file. A GPU holds a copy of all rows, if half of its free memory takes them: a step then looks
rows up at the speed of the device's memory. Otherwise each batch's rows are gathered once into pinned host memory and
sent along while the device is still busy with the step before.

Shape suffixes: Q rows of a batch, N blocks, G key and value heads, E head width, S segments.
"""

import logging
from dataclasses import dataclass, field

import torch
from torch import Tensor

from laser.llm.packed.torch_private import compile_for_row_shape
from laser.llm.text_states import States, spread

logger = logging.getLogger(__name__)

RESIDENT_SHARE = 0.5
"""Rows stay on the device if they take at most this share of its free memory; a step needs the rest."""


@dataclass(frozen=True)
class TextMemory:
    """The rows of an experiment's texts, which its splits share."""

    states: States
    """The mapped files."""
    share: float = RESIDENT_SHARE
    on_device: dict[torch.device, States | None] = field(default_factory=dict, compare=False, repr=False)
    """Device → the rows that it reads, or None where the copy does not fit; filled at first use."""

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return sum(rows_R2GE.nbytes for rows_R2GE in self.states)

    def resident(self, device: torch.device) -> States | None:
        """Return all rows where the device reads them fast; None where a batch has to fetch its own."""
        if device not in self.on_device:
            states = self.states if device.type == "cpu" else self._copied(device)
            for rows_R2GE in states or ():
                compile_for_row_shape(rows_R2GE)
            self.on_device[device] = states
        return self.on_device[device]

    def _copied(self, device: torch.device) -> States | None:
        free = torch.cuda.mem_get_info(device)[0]
        fits = self.nbytes <= self.share * free
        logger.info(
            "the texts' keys and values take %d MiB of %d MiB free on %s: %s",
            self.nbytes >> 20, free >> 20, device,
            "they stay there" if fits else "each batch fetches its own",
        )  # fmt: skip
        return tuple(rows_R2GE.to(device) for rows_R2GE in self.states) if fits else None


def fetch(states: States, first_row_S: Tensor, lengths_S: Tensor, device: torch.device) -> tuple[States, Tensor]:
    """Gather the rows of some segments and send them to the device, without waiting for it.

    Args:
        states: all rows, on the CPU.
        first_row_S: int64, on the CPU.
        lengths_S: int64, rows of each segment, on the CPU.
        device: the one that reads them.

    Returns:
        Their states, segment after segment, on the device; and the segments' first rows there, int64, on the CPU.
    """
    row_Q = spread(first_row_S, lengths_S)
    shape = (len(states), len(row_Q), *states[0].shape[1:])
    host_NQ2GE = torch.empty(shape, dtype=states[0].dtype, pin_memory=device.type == "cuda")
    for rows_R2GE, host_Q2GE in zip(states, host_NQ2GE, strict=True):
        torch.index_select(rows_R2GE, 0, row_Q, out=host_Q2GE)
    return host_NQ2GE.to(device, non_blocking=True).unbind(0), lengths_S.cumsum(0) - lengths_S
