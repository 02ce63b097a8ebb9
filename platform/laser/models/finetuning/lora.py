"""LoRA (Hu et al., arXiv 2106.09685): a linear map W x becomes W x + (α / r) B A x, with W frozen and r small.

Shape suffixes: I input width, O output width, R rank.
"""

import math

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
    found = [
        (name, module)
        for name, module in llm.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in config.modules
    ]
    missing = set(config.modules) - {name.rpartition(".")[2] for name, _ in found}
    if missing:
        known = sorted({n.rpartition(".")[2] for n, module in llm.named_modules() if isinstance(module, nn.Linear)})
        raise UserError(
            f"finetuning.modules: {sorted(missing)[0]!r} is no linear map of the LLM; choose from {', '.join(known)}"
        )
    for name, module in found:
        parent, _, last = name.rpartition(".")
        setattr(llm.get_submodule(parent), last, LoRALinear(module, config.rank, config.alpha))
