"""Head: maps the LLM's outputs to a space where users and items are compared (neither in the paper nor in its code).

A frozen LLM's outputs have cosines close to 1 and were not made to rank. A linear map, trained for a minute on cached
outputs (`laser.training.extensions.warm_start`), ranks several times better before any virtual token has moved. The
head can add the frozen recommender's product of user and item, so that its knowledge need not pass through the LLM:

    score(u, i) = a cos(W_u x_u, W_i x_i) + g Σ_c e_c (1 + w_c) z_uc v_ic + b [i in the history of u] + n s_ui

x are the LLM's outputs, standardised by fixed means and stds. With text features, these stand before the outputs in x,
and the maps read them alone at first (`laser.recommenders.text`). z_u is the recommender's last hidden state, v_i
its embedding of an item, and e_c the fixed scale of their dimension c. So the score is a dot product of two
concatenations, and ranking and loss need no change. s_ui are the recommender's counted scores, where it has them
(`SequentialRecommender.counted_scores`). They stand for its first block, which vectors then leave out, and join after
all training alone.

Shape suffixes: B batch, H LLM width, D head width, C recommender width, W text features, S sides: users, items.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laser.models.dropout import Dropout

USERS, ITEMS = 0, 1


class HeadOutput(NamedTuple):
    """Holds the parts of the scores."""

    vector_BD: Tensor
    """float32; a score is the dot product of a user's and an item's."""
    history_bias: Tensor | None
    """b, (1,); None if the head has no history bias."""


COUNTED_WEIGHT = "head.counted_weight"
"""Name of n among a model's weights."""


def with_counted_weight(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a model's weights with n, which heads of before 2026-11-29 lack: no counted scores joined theirs."""
    return {COUNTED_WEIGHT: torch.zeros(1), **weights} if "head.state_unit_C" in weights else weights


class Head(nn.Module):
    """Maps outputs of users and items to embeddings whose dot products are the scores (equation above).

    Args:
        llm_width: H.
        width: D; None compares the LLM's outputs without a map.
        recommender_width: C if the recommender's product is added, else 0.
        text_width: W; 0 if the maps read no text features. Without a map, nothing does.
        joins_later: whether the recommender's product has no weight until `set_weights` gives it one.
        shared: whether one map serves users and items; otherwise two maps start equal.
        dropout: probability of dropping an input of the map.
        history_bias: whether to learn b, which starts at 0; otherwise the score has no b.
        text_scale: initial value of a.
    """

    def __init__(
        self,
        llm_width: int,
        width: int | None,
        recommender_width: int,
        text_width: int,
        joins_later: bool,
        shared: bool,
        dropout: float,
        history_bias: bool,
        text_scale: float,
    ) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.maps = nn.ModuleList()  # one for both sides, or one for each; a map listed twice would have two names
        if width is not None:
            first = nn.Linear(text_width + llm_width, width, bias=False)
            nn.init.orthogonal_(first.weight)
            if text_width:
                nn.init.eye_(first.weight[:, :text_width])
                nn.init.zeros_(first.weight[: min(text_width, width), text_width:])
            self.maps.append(first)
            if not shared:
                second = nn.Linear(text_width + llm_width, width, bias=False)
                second.load_state_dict(first.state_dict())
                self.maps.append(second)
        self.text_width = 0 if width is None else text_width
        self.recommender_width, self.joins_later = recommender_width, joins_later
        self.cosine_width = llm_width if width is None else width
        self.register_buffer("center_SH", torch.zeros(2, llm_width))
        self.register_buffer("deviation_SH", torch.ones(2, llm_width))
        self.register_buffer("counted_weight", torch.zeros(1))
        self.text_scale = nn.Parameter(torch.tensor([text_scale]))
        self.register_buffer("state_unit_C", torch.full([recommender_width], 0.0 if joins_later else 1.0))
        self.state_scale = nn.Parameter(torch.zeros(1)) if recommender_width else None
        self.state_weight_C = nn.Parameter(torch.zeros(recommender_width)) if recommender_width else None
        self.history_bias = nn.Parameter(torch.zeros(1)) if history_bias else None

        self.train()

    center_SH: Tensor
    deviation_SH: Tensor
    state_unit_C: Tensor
    counted_weight: Tensor
    """n, (1,); 0 without counted scores."""

    @property
    def num_left_out(self) -> int:
        """How many of the recommender's dimensions, the first ones, are in no vector.

        All of them, as long as its product has no weight; the first block, where counted scores stand for it.
        """
        unit_C = self.state_unit_C
        if not self.joins_later or unit_C.is_meta or (unit_C.any() and not self.counted_weight.any()):
            return 0
        return int((unit_C == 0).cumprod(dim=0).sum())

    @property
    def width(self) -> int:
        """Width of the vectors."""
        return self.cosine_width + self.recommender_width - self.num_left_out

    def train(self, mode: bool = True) -> "Head":
        """Switch the mode. What is loaded into the head counts from the next switch on."""
        self._first = self.num_left_out
        return super().train(mode)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load as torch does, and n as `with_counted_weight` does."""
        return super().load_state_dict({"counted_weight": torch.zeros(1), **state_dict}, strict, assign)

    def forward(self, output_BH: Tensor, side: int, state_BC: Tensor) -> HeadOutput:
        """Map the LLM's outputs of users or items to the space of comparison.

        Args:
            output_BH: the LLM's outputs.
            side: USERS or ITEMS; all rows are of this side.
            state_BC: the recommender's last hidden state of each user, or its embedding of each item; C is 0 without a
                recommender. With text features, they are the last W of its columns.
        """
        return self.compared(self.inputs(output_BH, side, state_BC), side, state_BC)

    def inputs(self, output_BH: Tensor, side: int, state_BC: Tensor) -> Tensor:
        """Return what the maps read, x, float32; no weight that is trained takes part in it."""
        standard_BH = (output_BH.float() - self.center_SH[side]) / self.deviation_SH[side]
        return torch.cat([state_BC[:, -self.text_width :], standard_BH], dim=-1) if self.text_width else standard_BH

    def compared(self, text_BD: Tensor, side: int, state_BC: Tensor) -> HeadOutput:
        """Map `inputs` to the space of comparison, as `forward` does."""
        if self.maps:
            text_BD = self.maps[min(side, len(self.maps) - 1)](self.dropout(text_BD))
        text_BD = F.normalize(text_BD, dim=-1)
        if side == USERS:
            text_BD = text_BD * self.text_scale
        bias = None if self.history_bias is None else self.history_bias.clone()  # ZeRO-3 frees the gathered weight
        if self.state_weight_C is None or self.state_scale is None or self._first == self.recommender_width:
            return HeadOutput(text_BD, bias)
        joined = slice(self._first, self.recommender_width)
        state_BC = state_BC[:, joined]
        if side == USERS:
            state_BC = state_BC * self.state_unit_C[joined] * (1 + self.state_weight_C[joined])
            state_BC = state_BC * self.state_scale.exp()
        return HeadOutput(torch.cat([text_BD, state_BC], dim=-1), bias)

    @torch.no_grad()
    def set_weights(
        self, blocks: Sequence[int], weights: Sequence[float], bias: float, common: float = 1.0, counted: bool = False
    ) -> None:
        """Set the weights of the recommender's blocks and, last, of the cosine, and b; each times a common scale.

        With `counted`, the first weight is that of the counted scores, and the first block has none.
        """
        of_blocks = [0.0, *weights[1:-1]] if counted else weights[:-1]
        for (start, end), weight in zip(pairwise(accumulate(blocks, initial=0)), of_blocks, strict=True):
            self.state_unit_C[start:end] = weight * common
        self.counted_weight.fill_(weights[0] * common if counted else 0.0)
        self.text_scale.fill_(weights[-1] * common)
        if self.history_bias is not None:
            self.history_bias.fill_(bias * common)

    @torch.no_grad()
    def standardise(self, outputs_RH: Tensor, side: int) -> None:
        """Set mean and std of one side from its outputs. A single output has no std, and is only centred."""
        self.center_SH[side] = outputs_RH.mean(dim=0)
        self.deviation_SH[side] = outputs_RH.std(dim=0).clamp(min=1e-6) if len(outputs_RH) > 1 else 1.0
