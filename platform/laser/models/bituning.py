"""Bi-Tuning: puts trainable virtual tokens at both ends of a frozen LLM's text (arXiv 2409.01605, section 3).

It has the variants of the paper's ablations. The prefix is given, trained freely, or absent (Table 4). The
representation is read at a trainable suffix, at the LLM's own [EOS] token, or as the mean over the text (Table 5). A
late prefix, which is ours, stands after the text.

Shape suffixes: B batch, L prefix length, Q text tokens of all histories, T text tokens of one, S the whole sequence, P
packed tokens of all sequences, H LLM width.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from laser.llm.late_prefix import read_after
from laser.llm.loading import Decoder
from laser.llm.packed.attention import Packing
from laser.llm.packed.decoder import PackedDecoder
from laser.llm.text_states import Segments, TextStates, padded, read_histories, read_items

Representation = Literal["suffix", "mean", "eos"]


class BiTuning(nn.Module):
    """Holds the virtual tokens that are trained directly, and reads the representation of a history.

    Args:
        llm_width: H.
        embedding_std: std of the LLM's input embeddings. A suffix of another scale reads little from the text: with
            std .02 under embeddings of .136, untrained validation NDCG@10 was .005 instead of .04 (SmolLM2,
            Scientific_mini).
        representation: `suffix` reads the output at a trainable token `s` after the text. `eos` reads it at the LLM's
            own [EOS] token after the text. `mean` averages the outputs at the text's tokens and adds no token.
        num_prefix_tokens: length of a free prefix, the same for all histories; 0 for none.
        eos_token_id: the LLM's [EOS] token, with `eos` only.
        late: the prefix stands after the text (`laser.llm.late_prefix`); not with `mean`.
    """

    def __init__(
        self,
        llm_width: int,
        embedding_std: float,
        representation: Representation = "suffix",
        num_prefix_tokens: int = 0,
        eos_token_id: int | None = None,
        late: bool = False,
    ) -> None:
        super().__init__()
        assert (representation == "eos") == (eos_token_id is not None)
        assert not (late and representation == "mean"), "the text's outputs depend on no late token"
        self.late, self.read_late = late, read_after
        self.llm_width, self.representation, self.eos_token_id = llm_width, representation, eos_token_id
        self.suffix = _virtual_tokens(embedding_std, llm_width) if representation == "suffix" else None
        self.prefix = _virtual_tokens(embedding_std, num_prefix_tokens, llm_width) if num_prefix_tokens else None

    @property
    def num_end_tokens(self) -> int:
        """Number of tokens after the text: 0 or 1."""
        return 0 if self.representation == "mean" else 1

    def forward(
        self,
        llm: Decoder,
        prefix_BLH: Tensor | None,
        token_ids_Q: Tensor,
        text_lengths_B: Tensor,
        text: TextStates | Segments | None = None,
    ) -> Tensor:
        """Run `[prefix; text; suffix]` or `[text; prefix; suffix]` through the LLM once and return the representation.

        Args:
            llm: decoder without LM head.
            prefix_BLH: the prefix's virtual tokens. With None, the free prefix is used, if there is one.
            token_ids_Q: text tokens of all histories, int64, one history after the other.
            text_lengths_B: number of tokens of each history's text, int64, at least one.
            text: what a late prefix reads: the text's states; or how histories are put together, if each item is read
                by itself. With None, histories are read as ordinary text.

        Returns:
            representation_BH, float32.
        """
        if prefix_BLH is None:
            none_LH = torch.empty(0, self.llm_width, device=token_ids_Q.device)
            prefix_BLH = (none_LH if self.prefix is None else self.prefix).expand(len(text_lengths_B), -1, -1)
        if self.late:
            return self._late(llm, prefix_BLH, token_ids_Q, text_lengths_B, text).float()
        assert text is None, "a prefix before the text changes its states"
        read = self._packed if isinstance(llm, PackedDecoder) else self._padded
        return read(llm, prefix_BLH, token_ids_Q, text_lengths_B).float()

    def _end(self, llm: Decoder, token_ids_Q: Tensor) -> Tensor:
        """Return the embeddings after the text, `end_EH`, where E is `num_end_tokens`."""
        if self.suffix is not None:
            return self.suffix[None]
        return _embed(llm, token_ids_Q.new_tensor([] if self.eos_token_id is None else [self.eos_token_id]))

    def _late(
        self,
        llm: Decoder,
        prefix_BLH: Tensor,
        token_ids_Q: Tensor,
        text_lengths_B: Tensor,
        text: TextStates | Segments | None,
    ) -> Tensor:
        if text is None:
            text = read_histories(llm, token_ids_Q, text_lengths_B)
        elif isinstance(text, Segments):
            text = read_items(llm, token_ids_Q, text)
        end_EH = self._end(llm, token_ids_Q)
        virtual_BVH = torch.cat([prefix_BLH.float(), end_EH.float().expand(len(text_lengths_B), -1, -1)], dim=1)
        return self.read_late(llm, virtual_BVH.to(text.dtype), text)

    def _packed(self, llm: PackedDecoder, prefix_BLH: Tensor, token_ids_Q: Tensor, text_lengths_B: Tensor) -> Tensor:
        """Read the sequences one after the other, without padding."""
        text_QH, end_EH = _embed(llm, token_ids_Q), self._end(llm, token_ids_Q)
        batch, prefix_length, width = prefix_BLH.shape
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

    def _padded(self, llm: PreTrainedModel, prefix_BLH: Tensor, token_ids_Q: Tensor, text_lengths_B: Tensor) -> Tensor:
        """Read the sequences side by side, padded to the right.

        The suffix follows the last real token, so only padding comes after it. Under causal attention no earlier token
        sees the padding. So no attention mask is needed, and the fast attention kernels apply.
        """
        token_ids_BT, token_mask_BT = padded(token_ids_Q, text_lengths_B)
        tail_BTH, end_EH, lengths_B = _embed(llm, token_ids_BT), self._end(llm, token_ids_Q), text_lengths_B
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


def mean_text_embeddings(llm: Decoder, token_ids_Q: Tensor, text_lengths_B: Tensor) -> Tensor:
    """Return the mean of each text's input embeddings, `text_BH`, float32."""
    token_ids_BT, mask_BT = padded(token_ids_Q, text_lengths_B)
    text_BTH = _embed(llm, token_ids_BT).float() * mask_BT[..., None]
    return text_BTH.sum(dim=1) / text_lengths_B[:, None]


def _virtual_tokens(std: float, *shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.normal_(torch.empty(*shape), std=std))


def _embed(llm: Decoder, token_ids: Tensor) -> Tensor:
    """Look up input embeddings through the module, so that ZeRO-3 gathers its weight. A frozen table needs no graph."""
    table = llm.get_input_embeddings()
    with torch.set_grad_enabled(torch.is_grad_enabled() and any(w.requires_grad for w in table.parameters())):
        return table(token_ids)
