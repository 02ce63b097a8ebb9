"""PESO-like finetuning (arXiv 2512.02216), reconstructed: low-rank steps from an anchor, whose subspace moves.

A linear map W x becomes (W̃ + s B A) x. The anchor W̃ is W at first. `laser.engine.restarts` merges s B A into it every
K steps, and chooses A anew by the full gradient. The paper's algorithms are not public: docs/method.md says what is
known of them.

Shape suffixes: I input width, O output width, R rank, T tokens.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laser.config.families.finetuning import PesoConfig
from laser.llm.loading import Decoder
from laser.models.finetuning.lora import replace_maps

CLOCK = "restart_clock_2"
"""Buffer of the LLM: steps since the last restart, and restarts so far."""


class PesoLinear(nn.Module):
    """Holds an anchor beside a frozen linear map, and the product of two thin matrices; all are float32.

    In bf16 an anchor would round small merges away. It has a copy of the frozen weights, which thus keep their bits.

    Args:
        base: the frozen map.
        config: how the product is trained. Its rank is at most a side of the map.
    """

    anchor_OI: Tensor
    up_OR: nn.Parameter
    down_RI: Tensor

    def __init__(self, base: nn.Linear, config: PesoConfig) -> None:
        super().__init__()
        self.base, self.config = base, config
        rank, device = min(config.rank, *base.weight.shape), base.weight.device
        self.register_buffer("anchor_OI", base.weight.detach().float().clone())
        self.up_OR = nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        down_RI = torch.empty(rank, base.in_features, device=device)
        nn.init.kaiming_uniform_(down_RI, a=math.sqrt(5))  # as LoRA's, until the first restart
        if config.train == "both":
            self.down_RI = nn.Parameter(down_RI)
        else:
            self.register_buffer("down_RI", down_RI)
        self.gradient_OI: Tensor | None = None
        """Sum of the gradients with respect to the whole weight, while somebody asks for it."""
        self.was_trained = False
        """Whether a pass with a gradient went through since this was last set to false."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the anchor and the product; shape and dtype are those of the frozen map's output."""
        wide = x.to(self.anchor_OI.dtype)
        bias = None if self.base.bias is None else self.base.bias.to(wide.dtype)
        added = F.linear(F.linear(wide, self.down_RI), self.up_OR)
        mapped = F.linear(wide, self.anchor_OI, bias) + self.config.scale * added
        if mapped.requires_grad:
            self.was_trained = True
            if self.gradient_OI is not None:
                mapped.register_hook(lambda gradient: self._add(gradient, wide.detach()))
        return mapped.to(x.dtype)

    def product(self) -> Tensor:
        """Return s B A, without gradient (O, I)."""
        return self.config.scale * self.up_OR.detach() @ self.down_RI.detach()

    def _add(self, gradient: Tensor, x: Tensor) -> None:
        assert self.gradient_OI is not None, "nobody asks for the gradient of this pass"
        gradient_TO, x_TI = gradient.flatten(end_dim=-2), x.flatten(end_dim=-2)
        self.gradient_OI.addmm_(gradient_TO.T, x_TI)


def apply(llm: Decoder, config: PesoConfig) -> None:
    """Replace each linear map that `finetuning.modules` names by a `PesoLinear`.

    Raises:
        UserError: the LLM has no linear map of such a name.
    """
    replace_maps(llm, config.modules, lambda base: PesoLinear(base, config))
    llm.register_buffer(CLOCK, torch.zeros(2, device=next(llm.parameters()).device))
