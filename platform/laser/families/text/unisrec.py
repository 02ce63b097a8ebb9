"""UniSRec-like (Hou et al., KDD 2022, arXiv 2206.05941): a transformer over the items' texts, without ids.

It is the paper's inductive variant on one dataset, without the pre-training over several domains. Items that share no
interaction may share words, so that an item without any has an embedding too.

Shape suffixes: I catalogue items, W text width, G experts, C recommender width.
"""

import torch
from torch import Tensor, nn

from laser.config.families.recommenders import UniSRecConfig
from laser.families.text.text_sasrec import TextSASRec


class WhiteningExperts(nn.Module):
    """The paper's adaptor: each expert shifts and maps the features, and a softmax of them weights the experts.

    We deviate: the gate has no noise while training, and all experts share a mask of dropout.

    Args:
        text_width: W.
        hidden_size: C.
        num_experts: G.
        dropout: probability, on the experts' inputs.
    """

    def __init__(self, text_width: int, hidden_size: int, num_experts: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Linear(text_width, num_experts, bias=False)
        self.shift_GW = nn.Parameter(torch.zeros(num_experts, text_width))
        self.map_GWC = nn.Parameter(torch.randn(num_experts, text_width, hidden_size) * text_width**-0.5)
        nn.init.zeros_(self.gate.weight)  # every expert counts the same at first

    def forward(self, text_IW: Tensor) -> Tensor:
        """Return embeddings_IC; any number of dimensions may stand before W."""
        gate_IG = self.gate(text_IW).softmax(dim=-1)
        mapped_IGC = torch.einsum("...w,gwc->...gc", self.dropout(text_IW), self.map_GWC)
        shift_GC = torch.einsum("gw,gwc->gc", self.shift_GW, self.map_GWC)
        return torch.einsum("...g,...gc->...c", gate_IG, mapped_IGC - shift_GC)


class UniSRec(TextSASRec):
    """UniSRec-like: `TextSASRec` without embeddings of ids, and with the paper's adaptor in place of its network.

    The features that the experts read are whitened principal components already, because an LLM's lie in a narrow cone
    (`laser.recommenders.text`). The blocks are those of our SASRec.

    Args:
        num_experts: G.
        sizes: those of `TextSASRec`.
    """

    def __init__(self, num_items: int, num_experts: int, **sizes: int | float) -> None:
        super().__init__(num_items, **sizes)  # type: ignore[arg-type]
        self.decoder.wte = None  # it reads texts alone
        self.project = WhiteningExperts(self.text_IW.shape[1], self.hidden_size, num_experts, float(sizes["dropout"]))

    def _items(self, item_ids_BN: Tensor | None = None) -> Tensor:
        return self._texts(item_ids_BN)


def build(config: UniSRecConfig, num_items: int) -> UniSRec:
    """Build an untrained model from the settings of its section."""
    sizes = config.sizes | {"temperature": config.temperature, "text_width": config.text_width}
    return UniSRec(num_items, config.num_experts, **sizes)
