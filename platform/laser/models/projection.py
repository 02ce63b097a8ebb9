"""Projection: maps a recommender's hidden states to virtual tokens one by one, as the M-Former's rivals do.

Shape suffixes: B batch, N history items, C recommender width, L virtual tokens, H LLM width.
"""

import torch
from torch import Tensor, nn


class Projection(nn.Module):
    """A map from the recommender's hidden states to the LLM's input embeddings, in place of the M-Former.

    The last L items of a history have a virtual token each, in their order. Where a history has fewer, one learnt token
    fills the places before them, so that all prefixes have the same length.

    CoLLM (arXiv 2310.19488) maps the user's embedding and the target's to one token each, by two layers. Its code has
    ReLU, and a hidden width of five times C. That is `num_tokens` 1: the state after the last item stands for the user,
    as its code does with SASRec. LLaRA (arXiv 2312.02445) gives each item a token behind its title, by two layers with
    GELU and a hidden width of H. That is an L of the longest history.

    We deviate: the tokens stand together, before the text or after it, and not among its words. They are made of hidden
    states, as the M-Former's prefix is, where LLaRA maps item embeddings. LoRA and LLaRA's curriculum are left out. The
    two-layer map has GELU.

    Args:
        recommender_width: C.
        llm_width: H.
        num_tokens: L.
        hidden_size: width of the layer between; None for a linear map.
        output_std: std of the initial tokens where the states have unit variance, that of the LLM's input embeddings.
    """

    def __init__(
        self, recommender_width: int, llm_width: int, num_tokens: int, hidden_size: int | None, output_std: float
    ) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.hidden: nn.Module = nn.Identity()
        if hidden_size is not None:
            self.hidden = nn.Sequential(nn.Linear(recommender_width, hidden_size), nn.GELU())
        inner = recommender_width if hidden_size is None else hidden_size
        self.output = nn.Linear(inner, llm_width)
        nn.init.normal_(self.output.weight, std=output_std * inner**-0.5)
        nn.init.zeros_(self.output.bias)
        # Every history has a last item, so that a single token is never filled in.
        self.filler = nn.Parameter(nn.init.normal_(torch.empty(llm_width), std=output_std)) if num_tokens > 1 else None

    def forward(self, encoding_BNC: Tensor, mask_BN: Tensor) -> Tensor:
        """Make the prefixes of a batch, `prefix_BLH`, float32.

        Args:
            encoding_BNC: the frozen recommender's hidden states, float32, right-padded.
            mask_BN: true at real items, at least one in each row.
        """
        places_L = torch.arange(-self.num_tokens, 0, device=mask_BN.device)
        item_BL = mask_BN.sum(dim=1, keepdim=True) + places_L  # below 0 where the history has no such item
        index_BLC = item_BL.clamp(min=0)[..., None].expand(-1, -1, encoding_BNC.shape[2])
        state_BLC = encoding_BNC.gather(1, index_BLC)
        prefix_BLH = self.output(self.hidden(state_BLC))
        return prefix_BLH if self.filler is None else torch.where(item_BL[..., None] < 0, self.filler, prefix_BLH)
