"""One text read at many places: representations of all prefixes of a history for little more than one pass.

A history's prompt begins with the prompt of each shorter history, so under causal attention they share the keys and
values of the text. The tokens before the text must be the same for all of them. Then a copy of the suffix goes after
every item, and no other token sees it: its output is what the shorter history gives alone. On Scientific, the 42,000
histories of all users are read in 1.7 instead of 7.9 million tokens.

Shape suffixes: R readings, P packed text tokens, A query heads, G key and value heads, E head width, S tokens of one
history, M its readings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from laser.llm.packed.attention import Packing, Scoring, attend
from laser.llm.packed.decoder import PackedDecoder


@dataclass(frozen=True)
class ReadingPacking(Packing):
    """Histories one after the other, and their readings after all of them, history by history."""

    text: Packing
    ends: tuple[Tensor, ...]
    """For each history, the number of its tokens that each reading sees; int64."""

    @staticmethod
    def at(lengths_B: Tensor, ends: Sequence[Tensor]) -> "ReadingPacking":
        """Return the packing of histories of these lengths (int64), read after `ends` of their tokens."""
        text = Packing.of(lengths_B)
        position_P = torch.cat([text.position_P, *ends])
        reading_R = torch.arange(len(text.position_P), len(position_P), device=position_P.device)
        return ReadingPacking(text.lengths, text.offsets_B1, reading_R, position_P, text, tuple(ends))

    def attend(self, query_PAE: Tensor, key_PGE: Tensor, value_PGE: Tensor, last: bool, scoring: Scoring) -> Tensor:
        """Return the attention of text and readings or, with `last`, of the readings alone."""
        num_tokens = len(self.text.position_P)
        query_RAE = query_PAE if last else query_PAE[num_tokens:]
        read_RD = self._read(query_RAE, key_PGE, value_PGE, scoring)
        if last:
            return read_RD
        query_PAE, key_PGE, value_PGE = query_PAE[:num_tokens], key_PGE[:num_tokens], value_PGE[:num_tokens]
        return torch.cat([attend(query_PAE, key_PGE, value_PGE, self.text, False, scoring), read_RD])

    def _read(self, query_RAE: Tensor, key_PGE: Tensor, value_PGE: Tensor, scoring: Scoring) -> Tensor:
        """Return each reading's attention to the text before it and to itself, (R, A · E)."""
        num_tokens, groups, scale = len(self.text.position_P), key_PGE.shape[1], scoring.factor(query_RAE.shape[-1])
        query_GRXE = query_RAE.unflatten(1, (groups, -1)).movedim(1, 0)  # X query heads share a key
        own_key, own_value = key_PGE[num_tokens:].transpose(0, 1), value_PGE[num_tokens:].transpose(0, 1)
        own_GRX1 = (query_GRXE * own_key[:, :, None]).sum(dim=-1, keepdim=True, dtype=torch.float32)
        read = []
        starts = accumulate((len(end_M) for end_M in self.ends), initial=0)
        for (first, last), start, length, end_M in zip(
            pairwise(starts), self.text.offsets_B1.tolist()[:-1], self.lengths, self.ends, strict=True
        ):
            key_GES = key_PGE[start : start + length].permute(1, 2, 0)
            value_GSE = value_PGE[start : start + length].transpose(0, 1)
            query_GME = query_GRXE[:, first:last].flatten(1, 2)
            scores_GMXS = (query_GME @ key_GES).float().unflatten(1, (last - first, -1))
            position_S = torch.arange(length, device=end_M.device)
            unseen_MS = position_S >= end_M[:, None]
            if scoring.window is not None:  # a reading lies at the position of its end
                unseen_MS |= position_S <= end_M[:, None] - scoring.window
            scores_GMXS = scores_GMXS.masked_fill(unseen_MS[:, None], -torch.inf)
            probability = (torch.cat([scores_GMXS, own_GRX1[:, first:last]], dim=-1) * scale).softmax(dim=-1)
            to_text, to_self = probability.to(query_RAE.dtype).split([length, 1], dim=-1)
            seen_GMXE = (to_text.flatten(1, 2) @ value_GSE).unflatten(1, (last - first, -1))
            read.append(seen_GMXE + to_self * own_value[:, first:last, None])
        return torch.cat(read, dim=1).movedim(0, 1).flatten(1)


@torch.no_grad()
def read_at(
    llm: PackedDecoder, prefix_LH: Tensor, token_ids: Sequence[Tensor], ends: Sequence[Tensor], suffix_H: Tensor
) -> Tensor:
    """Return what `BiTuning` reads of each text's beginnings: float32 representation_RH, text by text.

    Args:
        llm: frozen.
        prefix_LH: the virtual tokens before every text.
        token_ids: the texts, int64.
        ends: for each text, how many of its tokens each reading sees, int64.
        suffix_H: the token after them.
    """
    device, num_prefix = suffix_H.device, len(prefix_LH)
    lengths_B = torch.tensor([len(text) + num_prefix for text in token_ids], device=device)
    packing = ReadingPacking.at(lengths_B, [end_M + num_prefix for end_M in ends])
    embed = llm.get_input_embeddings()
    text_PH = embed(torch.cat(list(token_ids)))
    is_prefix_P = packing.text.position_P < num_prefix
    packed_PH = text_PH.new_empty(len(packing.position_P), text_PH.shape[1])
    packed_PH[len(is_prefix_P) :] = suffix_H.to(text_PH.dtype)
    packed_PH[: len(is_prefix_P)][is_prefix_P] = prefix_LH.to(text_PH.dtype).repeat(len(token_ids), 1)
    packed_PH[: len(is_prefix_P)][~is_prefix_P] = text_PH
    return llm(packed_PH, packing).float()
