"""Bi-Tuning: trainable virtual tokens at both ends of the text, around a frozen LLM (arXiv 2409.01605, section 3).

Its variants are those of the paper's ablations: a prefix that is given, trained freely or absent (Table 4), and a
representation read at a trainable suffix, at the LLM's own [EOS] token, or as the mean over the text (Table 5).

Shape suffixes: B batch, L prefix length, T text tokens, S the whole sequence, P packed tokens of all sequences, H LLM
width.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from laser.models.llm import Decoder
from laser.models.packed.attention import Packing
from laser.models.packed.decoder import PackedDecoder

Representation = Literal["suffix", "mean", "eos"]


class BiTuning(nn.Module):
    """Holds the virtual tokens that are trained themselves, and reads the representation of a history.

    Args:
        llm_width: H.
        embedding_std: scale of the LLM's input embeddings. A suffix of another scale reads little from the text: at
            std .02 under embeddings of .136, untrained validation NDCG@10 was .005 instead of .04 (SmolLM2,
            Scientific_mini).
        representation: `suffix` reads the output at a trainable token `s` after the text, `eos` at the LLM's own token
            there, `mean` the mean of the outputs at the text's tokens, with nothing after it.
        num_prefix_tokens: length of a prefix of its own, the same for all histories; 0 holds none.
        eos_token_id: the LLM's [EOS] token; for `eos` alone.
    """

    def __init__(
        self,
        llm_width: int,
        embedding_std: float,
        representation: Representation = "suffix",
        num_prefix_tokens: int = 0,
        eos_token_id: int | None = None,
    ) -> None:
        super().__init__()
        assert (representation == "eos") == (eos_token_id is not None)
        self.llm_width, self.representation, self.eos_token_id = llm_width, representation, eos_token_id
        self.suffix = _virtual_tokens(embedding_std, llm_width) if representation == "suffix" else None
        self.prefix = _virtual_tokens(embedding_std, num_prefix_tokens, llm_width) if num_prefix_tokens else None

    @property
    def num_end_tokens(self) -> int:
        """Tokens that follow the text: 0 or 1."""
        return 0 if self.representation == "mean" else 1

    def forward(self, llm: Decoder, prefix_BLH: Tensor | None, token_ids_BT: Tensor, token_mask_BT: Tensor) -> Tensor:
        """Run `[prefix; text; suffix]` through the LLM once and return the representation.

        Args:
            llm: decoder without LM head.
            prefix_BLH: virtual tokens before the text; None takes its own, or none.
            token_ids_BT: text tokens, int64, right-padded.
            token_mask_BT: true at real tokens.

        Returns:
            representation_BH, float32.
        """
        if prefix_BLH is None:
            none_LH = torch.empty(0, self.llm_width, device=token_ids_BT.device)
            prefix_BLH = (none_LH if self.prefix is None else self.prefix).expand(len(token_ids_BT), -1, -1)
        read = self._packed if isinstance(llm, PackedDecoder) else self._padded
        return read(llm, prefix_BLH, token_ids_BT, token_mask_BT).float()

    def _end(self, llm: Decoder, token_ids_BT: Tensor) -> Tensor:
        """What follows the text, `end_EH`, with E of `num_end_tokens`."""
        if self.suffix is not None:
            return self.suffix[None]
        return _embed(llm, token_ids_BT.new_tensor([] if self.eos_token_id is None else [self.eos_token_id]))

    def _packed(self, llm: PackedDecoder, prefix_BLH: Tensor, token_ids_BT: Tensor, token_mask_BT: Tensor) -> Tensor:
        """The sequences one after the other, without padding."""
        text_QH, end_EH = _embed(llm, token_ids_BT[token_mask_BT]), self._end(llm, token_ids_BT)
        batch, prefix_length, width = prefix_BLH.shape
        text_lengths_B = token_mask_BT.sum(dim=1)
        packing = Packing.of(text_lengths_B + prefix_length + len(end_EH))
        is_virtual_P = packing.position_P < prefix_length
        prefix_rows = is_virtual_P.nonzero()[:, 0]
        end_rows = packing.last_B if len(end_EH) else packing.last_B[:0]
        is_virtual_P[end_rows] = True
        sequence_PH = text_QH.new_empty(len(is_virtual_P), width)
        sequence_PH[~is_virtual_P] = text_QH
        virtual_VH = torch.cat([prefix_BLH.reshape(-1, width), end_EH.expand(len(end_rows), -1)])
        rows_V = torch.cat([prefix_rows, end_rows])
        sequence_PH = sequence_PH.index_copy(0, rows_V, virtual_VH.to(sequence_PH.dtype))
        if self.representation != "mean":
            return llm(sequence_PH, packing)
        text_QH = llm(sequence_PH, packing, every_token=True)[~is_virtual_P].float()
        history_Q = torch.repeat_interleave(text_lengths_B)
        return text_QH.new_zeros(batch, width).index_add(0, history_Q, text_QH) / text_lengths_B[:, None]

    def _padded(self, llm: PreTrainedModel, prefix_BLH: Tensor, token_ids_BT: Tensor, token_mask_BT: Tensor) -> Tensor:
        """The sequences side by side, padded to the right.

        The suffix follows the last real token, so what comes after it is padding alone; under causal attention nothing
        before can see it. No attention mask is needed, which keeps the fast attention kernels.
        """
        tail_BTH, end_EH = _embed(llm, token_ids_BT), self._end(llm, token_ids_BT)
        lengths_B = token_mask_BT.sum(dim=1)
        if len(end_EH):
            tail_BTH = torch.cat([tail_BTH, torch.zeros_like(tail_BTH[:, :1])], dim=1)
            is_end_BT = torch.arange(tail_BTH.shape[1], device=lengths_B.device) == lengths_B[:, None]
            tail_BTH = torch.where(is_end_BT[..., None], end_EH[0].to(tail_BTH.dtype), tail_BTH)
        sequence_BSH = torch.cat([prefix_BLH.to(tail_BTH.dtype), tail_BTH], dim=1)
        hidden_BSH = llm(inputs_embeds=sequence_BSH, use_cache=False).last_hidden_state
        hidden_BTH = hidden_BSH[:, prefix_BLH.shape[1] :]
        if self.representation != "mean":
            return hidden_BTH[torch.arange(len(lengths_B), device=lengths_B.device), lengths_B]
        return (hidden_BTH.float() * token_mask_BT[..., None]).sum(dim=1) / lengths_B[:, None]


def mean_text_embeddings(llm: Decoder, token_ids_BT: Tensor, token_mask_BT: Tensor) -> Tensor:
    """The mean of each text's input embeddings, `text_BH` float32, without gradient."""
    text_BTH = _embed(llm, token_ids_BT).float() * token_mask_BT[..., None]
    return text_BTH.sum(dim=1) / token_mask_BT.sum(dim=1, keepdim=True)


def _virtual_tokens(std: float, *shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.normal_(torch.empty(*shape), std=std))


def _embed(llm: Decoder, token_ids: Tensor) -> Tensor:
    with torch.no_grad():  # frozen leaves need no graph; through the module, because ZeRO-3 gathers its weight
        return llm.get_input_embeddings()(token_ids)
