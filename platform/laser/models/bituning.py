"""Bi-Tuning: trainable virtual tokens at both ends of the text, around a frozen LLM (arXiv 2409.01605, section 3).

Shape suffixes: B batch, L prefix length, T text tokens, S = L + T + 1 the whole sequence, H LLM width.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class BiTuning(nn.Module):
    """Holds the suffix token `s` and reads its output as the representation of a history.

    Args:
        llm_width: H.
        embedding_std: scale of the LLM's input embeddings. A suffix of another scale reads little from the text: at
            std .02 under embeddings of .136, untrained validation NDCG@10 was .005 instead of .04 (SmolLM2,
            Scientific_mini).
    """

    def __init__(self, llm_width: int, embedding_std: float) -> None:
        super().__init__()
        self.suffix = nn.Parameter(torch.empty(llm_width))
        nn.init.normal_(self.suffix, std=embedding_std)

    def forward(self, llm: PreTrainedModel, prefix_BLH: Tensor, token_ids_BT: Tensor, token_mask_BT: Tensor) -> Tensor:
        """Run `[prefix; text; suffix]` through the LLM once and return the suffix's last hidden state.

        The text is right-padded and the suffix follows its last real token, so what comes after the suffix is padding
        alone; under causal attention nothing before can see it. No attention mask is needed, which keeps the fast
        attention kernels.

        Args:
            llm: decoder without LM head that takes `inputs_embeds`.
            prefix_BLH: virtual tokens before the text.
            token_ids_BT: text tokens, int64.
            token_mask_BT: true at real tokens.

        Returns:
            representation_BH, float32.
        """
        with torch.no_grad():  # frozen leaves need no graph; through the module, because ZeRO-3 gathers its weight
            text_BTH = llm.get_input_embeddings()(token_ids_BT)
        rows = torch.arange(len(token_ids_BT), device=token_ids_BT.device)
        lengths_B = token_mask_BT.sum(dim=1)
        tail_BTH = torch.cat([text_BTH, torch.zeros_like(text_BTH[:, :1])], dim=1)
        is_suffix_BT = torch.arange(tail_BTH.shape[1], device=rows.device) == lengths_B[:, None]
        tail_BTH = torch.where(is_suffix_BT[..., None], self.suffix.to(text_BTH.dtype), tail_BTH)
        sequence_BSH = torch.cat([prefix_BLH.to(text_BTH.dtype), tail_BTH], dim=1)
        hidden_BSH = llm(inputs_embeds=sequence_BSH, use_cache=False).last_hidden_state
        return hidden_BSH[rows, prefix_BLH.shape[1] + lengths_B].float()
