"""The space in which users and items are compared, when it is not the LLM's own (neither in the paper nor in its code).

A frozen LLM's outputs have cosines close to 1 and were not made to rank. A linear map of them, trained for a minute on
cached outputs (`laser.training.extensions.warm_start`), ranks several times better before any virtual token has moved.
The frozen recommender's own product of user and item may be added, so that what it knows need not pass through the LLM:

    score(u, i) = a cos(W_u x_u, W_i x_i) + g Σ_c e_c (1 + w_c) z_uc v_ic + b [i in the history of u]

x are the LLM's outputs, standardised by fixed means and deviations; z_u is the recommender's last hidden state and v_i
its vector of an item, e_c the fixed unit of each of their dimensions. The score is a dot product of two
concatenations, so ranking and loss stay what they are.

Shape suffixes: B batch, H LLM width, D head width, C recommender width, S sides: users, items.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

USERS, ITEMS = 0, 1


class Side(NamedTuple):
    """What is compared with what."""

    side: int
    """USERS or ITEMS."""
    state_BC: Tensor
    """The recommender's last hidden state of each history, or its vector of each item; C is 0 without one."""


class Sides(NamedTuple):
    """Users and, below them in the same batch, items."""

    users: Side
    items: Side


class HeadOutput(NamedTuple):
    """What scores are made of."""

    vector_BD: Tensor
    """Float32; the dot products of those of users and items are the scores."""
    history_bias: Tensor | None
    """b, (1,)."""


class Head(nn.Module):
    """See the module.

    Args:
        llm_width: H.
        width: D; None compares the LLM's outputs as they are.
        recommender_width: C where the recommender's product is added, else 0.
        shared: one map for users and items; else two, equal at first.
        dropout: probability, of the map's inputs.
        history_bias: learn b, which is 0 at first; else there is none.
        text_scale: a at first.
    """

    def __init__(
        self,
        llm_width: int,
        width: int | None,
        recommender_width: int,
        shared: bool,
        dropout: float,
        history_bias: bool,
        text_scale: float,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.maps = nn.ModuleList()
        if width is not None:
            first = nn.Linear(llm_width, width, bias=False)
            nn.init.orthogonal_(first.weight)
            second = first if shared else nn.Linear(llm_width, width, bias=False)
            second.load_state_dict(first.state_dict())
            self.maps.extend([first, second])
        self.width = (llm_width if width is None else width) + recommender_width
        self.register_buffer("center_SH", torch.zeros(2, llm_width))
        self.register_buffer("deviation_SH", torch.ones(2, llm_width))
        self.text_scale = nn.Parameter(torch.tensor([text_scale]))
        self.register_buffer("state_unit_C", torch.ones(recommender_width))
        self.state_scale = nn.Parameter(torch.zeros(1)) if recommender_width else None
        self.state_weight_C = nn.Parameter(torch.zeros(recommender_width)) if recommender_width else None
        self.history_bias = nn.Parameter(torch.zeros(1)) if history_bias else None

    center_SH: Tensor
    deviation_SH: Tensor
    state_unit_C: Tensor

    def forward(self, output_BH: Tensor, of: Side) -> HeadOutput:
        """Map the LLM's outputs of users or of items."""
        text_BD = (output_BH.float() - self.center_SH[of.side]) / self.deviation_SH[of.side]
        if self.maps:
            text_BD = self.maps[of.side](self.dropout(text_BD))
        text_BD = F.normalize(text_BD, dim=-1)
        if of.side == USERS:
            text_BD = text_BD * self.text_scale
        bias = None if self.history_bias is None else self.history_bias.clone()  # outlives ZeRO-3's gathered weight
        if self.state_weight_C is None or self.state_scale is None:
            return HeadOutput(text_BD, bias)
        state_BC = of.state_BC
        if of.side == USERS:
            state_BC = state_BC * self.state_unit_C * (1 + self.state_weight_C) * self.state_scale.exp()
        return HeadOutput(torch.cat([text_BD, state_BC], dim=-1), bias)

    @torch.no_grad()
    def standardise(self, outputs_RH: Tensor, side: int) -> None:
        """Take mean and deviation of one side from its outputs."""
        self.center_SH[side] = outputs_RH.mean(dim=0)
        self.deviation_SH[side] = outputs_RH.std(dim=0).clamp(min=1e-6)
