"""Dropout of large inputs on a CPU, in less than half the time of torch's."""

import torch
from torch import Tensor, nn

LEVELS = 2**16
"""Probabilities are multiples of one in so many."""


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, whose draws on a CPU come four at a time.

    torch draws a number of 64 bits for every element, and these take most of the time. Here four elements share one.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements in training; others are divided by the share that stays, as torch does."""
        dropped = round(self.p * LEVELS)
        if not self.training or not 0 < dropped < LEVELS or input.device.type != "cpu":
            return super().forward(input)
        words = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        draws = words.view(torch.int16)[: input.numel()].view_as(input)
        kept = draws.ge_(dropped - LEVELS // 2).to(input.dtype).mul_(LEVELS / (LEVELS - dropped))
        return input * kept if input.requires_grad else kept.mul_(input)
