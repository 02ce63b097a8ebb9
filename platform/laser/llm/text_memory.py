"""Where the rows of the text cache lie while a device reads them.

A CPU reads the mapped file. A GPU holds a copy of all rows, if half of its free memory takes them: a step then looks
rows up at the speed of the device's memory. Otherwise each batch's rows are gathered once into pinned host memory and
sent along while the device is still busy with the step before.

Shape suffixes: R rows, Q rows of a batch, N blocks, G key and value heads, E head width, S segments.
"""

import logging
from dataclasses import dataclass, field

import torch
from torch import Tensor

from laser.llm.text_states import spread

logger = logging.getLogger(__name__)

RESIDENT_SHARE = 0.5
"""Rows stay on the device if they take at most this share of its free memory; a step needs the rest."""


@dataclass(frozen=True)
class TextMemory:
    """The rows of an experiment's texts, which its splits share."""

    rows_RN2GE: Tensor
    """The mapped file."""
    share: float = RESIDENT_SHARE
    on_device: dict[torch.device, Tensor | None] = field(default_factory=dict, compare=False, repr=False)
    """Device → the rows that it reads, or None where the copy does not fit; filled at first use."""

    def resident(self, device: torch.device) -> Tensor | None:
        """Return all rows where the device reads them fast; None where a batch has to fetch its own."""
        if device not in self.on_device:
            self.on_device[device] = self.rows_RN2GE if device.type == "cpu" else self._copied(device)
        return self.on_device[device]

    def _copied(self, device: torch.device) -> Tensor | None:
        free = torch.cuda.mem_get_info(device)[0]
        fits = self.rows_RN2GE.nbytes <= self.share * free
        logger.info(
            "the texts' keys and values take %d MiB of %d MiB free on %s: %s",
            self.rows_RN2GE.nbytes >> 20, free >> 20, device,
            "they stay there" if fits else "each batch fetches its own",
        )  # fmt: skip
        return self.rows_RN2GE.to(device) if fits else None


def fetch(rows_RN2GE: Tensor, first_row_S: Tensor, lengths_S: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Gather the rows of some segments and send them to the device, without waiting for it.

    Args:
        rows_RN2GE: all rows, on the CPU.
        first_row_S: int64, on the CPU.
        lengths_S: int64, rows of each segment, on the CPU.
        device: the one that reads them.

    Returns:
        rows_QN2GE, segment after segment, on the device; and the segments' first rows among them, int64, on the CPU.
    """
    row_Q = spread(first_row_S, lengths_S)
    host_QN2GE = torch.empty(
        len(row_Q), *rows_RN2GE.shape[1:], dtype=rows_RN2GE.dtype, pin_memory=device.type == "cuda"
    )
    torch.index_select(rows_RN2GE, 0, row_Q, out=host_QN2GE)
    return host_QN2GE.to(device, non_blocking=True), lengths_S.cumsum(0) - lengths_S
