"""LoRA (Hu et al., arXiv 2106.09685): a linear map W x becomes W x + (α / r) B A x, with W frozen and r small.

Shape suffixes: I input width, O output width, R rank.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laser.config.families.finetuning import LoRAConfig
from laser.errors import UserError
from laser.llm.loading import Decoder


class LoRALinear(nn.Module):
    """Adds to a frozen linear map the product of two thin matrices in float32. The product starts at zero.

    Args:
        base: the frozen map.
        rank: r.
        alpha: α.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base, self.scale = base, alpha / rank
        device = base.weight.device
        self.down_RI = nn.Parameter(torch.empty(rank, base.in_features, device=device))
        self.up_OR = nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        nn.init.kaiming_uniform_(self.down_RI, a=math.sqrt(5))  # as in LoRA's own code and in peft

    def forward(self, x: Tensor) -> Tensor:
        """Apply both maps; shape and dtype are those of the frozen map's output."""
        mapped = self.base(x)
        added = F.linear(F.linear(x.float(), self.down_RI), self.up_OR)
        return mapped + (self.scale * added).to(mapped.dtype)


def apply(llm: Decoder, config: LoRAConfig) -> None:
    """Replace each linear map that `finetuning.modules` names by a `LoRALinear`.

    Raises:
        UserError: the LLM has no linear map of such a name.
    """
    replace_maps(llm, config.modules, lambda base: LoRALinear(base, config.rank, config.alpha))


def replace_maps(llm: Decoder, names: Sequence[str], make: Callable[[nn.Linear], nn.Module]) -> None:
    """Replace each linear map whose last part of the name is one of `names` by what `make` makes of it.

    Raises:
        UserError: the LLM has no linear map of such a name.
    """
    maps = {name: module for name, module in llm.named_modules() if isinstance(module, nn.Linear)}
    known = {name.rpartition(".")[2] for name in maps}
    missing = sorted(set(names) - known)
    if missing:
        raise UserError(
            f"finetuning.modules: {missing[0]!r} is no linear map of the LLM; choose from {', '.join(sorted(known))}"
        )
    for name, module in maps.items():
        parent, _, last = name.rpartition(".")
        if last in names:
            setattr(llm.get_submodule(parent), last, make(module))
