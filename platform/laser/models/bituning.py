"""Bi-Tuning: trainable virtual tokens at both ends of the text, around a frozen LLM (arXiv 2409.01605, section 3).

Shape suffixes: B batch, L prefix length, T text tokens, S = L + T + 1 the whole sequence, P packed tokens of all
sequences, H LLM width.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from laser.models.attention import Packing
from laser.models.llm import Decoder
from laser.models.packed import PackedLlama


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

    def forward(self, llm: Decoder, prefix_BLH: Tensor, token_ids_BT: Tensor, token_mask_BT: Tensor) -> Tensor:
        """Run `[prefix; text; suffix]` through the LLM once and return the suffix's last hidden state.

        Args:
            llm: decoder without LM head.
            prefix_BLH: virtual tokens before the text.
            token_ids_BT: text tokens, int64, right-padded.
            token_mask_BT: true at real tokens.

        Returns:
            representation_BH, float32.
        """
        read = self._packed if isinstance(llm, PackedLlama) else self._padded
        return read(llm, prefix_BLH, token_ids_BT, token_mask_BT).float()

    def _packed(self, llm: PackedLlama, prefix_BLH: Tensor, token_ids_BT: Tensor, token_mask_BT: Tensor) -> Tensor:
        """The sequences one after the other, without padding."""
        text_QH = _embed(llm, token_ids_BT[token_mask_BT])
        batch, prefix_length, width = prefix_BLH.shape
        packing = Packing.of(token_mask_BT.sum(dim=1) + prefix_length + 1)
        is_virtual_P = packing.position_P < prefix_length
        prefix_rows = is_virtual_P.nonzero()[:, 0]
        is_virtual_P[packing.last_B] = True
        sequence_PH = text_QH.new_empty(len(is_virtual_P), width)
        sequence_PH[~is_virtual_P] = text_QH
        virtual_VH = torch.cat([prefix_BLH.reshape(-1, width), self.suffix.expand(batch, -1)])
        rows_V = torch.cat([prefix_rows, packing.last_B])
        return llm(sequence_PH.index_copy(0, rows_V, virtual_VH.to(sequence_PH.dtype)), packing)

    def _padded(self, llm: PreTrainedModel, prefix_BLH: Tensor, token_ids_BT: Tensor, token_mask_BT: Tensor) -> Tensor:
        """The sequences side by side, padded to the right.

        The suffix follows the last real token, so what comes after it is padding alone; under causal attention nothing
        before can see it. No attention mask is needed, which keeps the fast attention kernels.
        """
        text_BTH = _embed(llm, token_ids_BT)
        rows_B = torch.arange(len(token_ids_BT), device=token_ids_BT.device)
        lengths_B = token_mask_BT.sum(dim=1)
        tail_BTH = torch.cat([text_BTH, torch.zeros_like(text_BTH[:, :1])], dim=1)
        is_suffix_BT = torch.arange(tail_BTH.shape[1], device=rows_B.device) == lengths_B[:, None]
        tail_BTH = torch.where(is_suffix_BT[..., None], self.suffix.to(text_BTH.dtype), tail_BTH)
        sequence_BSH = torch.cat([prefix_BLH.to(text_BTH.dtype), tail_BTH], dim=1)
        hidden_BSH = llm(inputs_embeds=sequence_BSH, use_cache=False).last_hidden_state
        return hidden_BSH[rows_B, prefix_BLH.shape[1] + lengths_B]


def _embed(llm: Decoder, token_ids: Tensor) -> Tensor:
    with torch.no_grad():  # frozen leaves need no graph; through the module, because ZeRO-3 gathers its weight
        return llm.get_input_embeddings()(token_ids)
