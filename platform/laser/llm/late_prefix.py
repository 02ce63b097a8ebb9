"""The late prefix: virtual tokens after the text read its keys and values, and no text is run again.

The paper puts the prefix before the text, so every token of the text depends on trained ones, and a step runs all of
them (4 · N · (T + L + 1) operations a history, forward and backward). Under causal attention, what stands before the
virtual tokens depends on nothing that is trained. So `[text; prefix; suffix]` costs 4 · N · (L + 1).

Shape suffixes: B histories, T tokens of the longest text, V virtual tokens of a history, P = B · V, A query heads, G
key and value heads, R = A / G heads that share a key, C queries of a history, X = R · C, S = T + V, U keys that are
hidden from some, E head width, H LLM width.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from laser.llm.loading import Decoder
from laser.llm.packed.attention import Packing, Scoring, by_key, by_token
from laser.llm.packed.decoder import PackedDecoder
from laser.llm.packed.fused import Kernels
from laser.llm.packed.torch_private import softmax_backward
from laser.llm.text_states import TextStates, Turns

PIECE_TOKENS = 8192
"""Tokens of text whose keys and values a CPU takes at once; 6 MiB a block of SmolLM2 in bf16."""


def read_after(llm: Decoder, virtual_BVH: Tensor, text: TextStates) -> Tensor:
    """Run the virtual tokens of each history after its text; return the final hidden state of the last one, (B, H)."""
    read = _packed if isinstance(llm, PackedDecoder) else _padded
    return read(llm, virtual_BVH, text)


def _packed(llm: PackedDecoder, virtual_BVH: Tensor, text: TextStates) -> Tensor:
    packing = LatePacking.after(text, virtual_BVH.shape[1], text.turning(llm), llm.kernels)
    return llm(virtual_BVH.flatten(0, 1), packing)


def _padded(llm: PreTrainedModel, virtual_BVH: Tensor, text: TextStates) -> Tensor:
    """Hand the text over as a cache of keys and values, padded to the left."""
    length_B, mask_BT = text.places.length_B, text.mask_BT
    virtual, longest = virtual_BVH.shape[1], mask_BT.shape[1]
    turns, cache = text.turning(llm), DynamicCache()
    left_BT = (torch.arange(longest, device=length_B.device) - (longest - length_B)[:, None]) % longest
    none_B0GE = text.states[0].new_empty(len(length_B), 0, *text.states[0].shape[2:])
    for number in range(llm.config.get_text_config().num_hidden_layers):
        states = text.block(number, turns, (none_B0GE, none_B0GE))
        cache.update(*(state_BGTE.gather(2, _like(left_BT, state_BGTE)) for state_BGTE in states), number)
    seen_BS = torch.cat([mask_BT.gather(1, left_BT), mask_BT.new_ones(len(length_B), virtual)], dim=1)
    return llm(
        inputs_embeds=virtual_BVH,
        past_key_values=cache,
        attention_mask=seen_BS.long(),
        position_ids=length_B[:, None] + torch.arange(virtual, device=length_B.device),
        use_cache=True,
    ).last_hidden_state[:, -1]


def _like(index_BT: Tensor, state_BGTE: Tensor) -> Tensor:
    return index_BT[:, None, :, None].expand_as(state_BGTE)


@dataclass(frozen=True)
class LatePacking(Packing):
    """Virtual tokens, history after history. Each sees its history's text and the virtual tokens before it."""

    text: TextStates
    """With room for the virtual tokens."""
    turns: Turns | None
    """For each block, what turns the text's keys to their places."""
    kernels: Kernels
    hidden: dict[tuple[int, int | None], Tensor]
    """What queries do not see, by their number and the window; made at first use."""

    @staticmethod
    def after(text: TextStates, virtual: int, turns: Turns | None, kernels: Kernels) -> "LatePacking":
        """Return the packing of so many virtual tokens after each text."""
        length_B = text.places.length_B
        batch, device = len(length_B), length_B.device
        offsets_B1 = virtual * torch.arange(batch + 1, dtype=torch.int32, device=device)
        position_BV = length_B[:, None] + torch.arange(virtual, device=device)
        lengths, last_B = (virtual,) * batch, offsets_B1[1:].long() - 1
        with_room = text.with_room(virtual)
        return LatePacking(lengths, offsets_B1, last_B, position_BV.flatten(), with_room, turns, kernels, hidden={})

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return self.text.places.row_BT.shape[1] - self.lengths[0]

    def hidden_from(self, queries: int, window: int | None) -> Tensor:
        """Return which of the last U keys the last virtual tokens do not see, hidden_BCU. They see all others."""
        if (queries, window) not in self.hidden:
            self.hidden[queries, window] = self._hidden_from(queries, window)
        return self.hidden[queries, window]

    def _hidden_from(self, queries: int, window: int | None) -> Tensor:
        length_B1, virtual = self.text.places.length_B[:, None], self.lengths[0]
        device, longest = length_B1.device, self.longest
        # A GPU masks all keys: to learn the shortest text, it would be waited for.
        seen_by_all = int(length_B1.min()) if window is None and device.type == "cpu" else 0
        text_position_BT = torch.arange(seen_by_all, longest, device=device).expand(len(length_B1), -1)
        virtual_BV = length_B1 + torch.arange(virtual, device=device)
        key_BU, query_BC1 = torch.cat([text_position_BT, virtual_BV], dim=1), virtual_BV[:, -queries:, None]
        seen_BCU = key_BU[:, None] <= query_BC1
        if window is not None:
            seen_BCU &= key_BU[:, None] > query_BC1 - window
        is_text_U = torch.arange(seen_by_all, longest + virtual, device=device) < longest
        padding_BU = is_text_U & (key_BU >= length_B1)
        return ~seen_BCU | padding_BU[:, None]

    def of_block(self, number: int) -> "_Block":
        return _Block(self, number)


@dataclass(frozen=True)
class _Block:
    """What one block asks of a `LatePacking`."""

    packing: LatePacking
    number: int

    def last_of(self, x_PH: Tensor) -> Tensor:
        return x_PH.unflatten(0, (-1, self.packing.lengths[0]))[:, -1]

    def attend(self, query_PAE: Tensor, key_PGE: Tensor, value_PGE: Tensor, last: bool, scoring: Scoring) -> Tensor:
        """Return the attention of all virtual tokens or, with `last`, of each history's last one: (P or B, A · E)."""
        return _LateAttention.apply(query_PAE, key_PGE, value_PGE, self, last, scoring)

    def pieces(self, device: torch.device) -> list[slice]:
        """Return the histories to take at once: few on a CPU, so that their text stays in its caches."""
        batch, longest = len(self.packing.lengths), self.packing.longest
        if device.type != "cpu":
            return [slice(0, batch)]
        number = ceil(batch / max(1, PIECE_TOKENS // longest))
        ends = [batch * (piece + 1) // number for piece in range(number)]
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def keys_and_values(self, virtual: tuple[Tensor, Tensor], histories: slice) -> tuple[Tensor, Tensor]:
        """Return keys and values of text and virtual tokens of some histories: two (B, G, S, E)."""
        packing = self.packing
        return packing.text.block(self.number, packing.turns, virtual, packing.kernels, histories)


class _LateAttention(torch.autograd.Function):
    """Softmax attention, a few histories at a time. The backward pass gathers and turns the text again."""

    @staticmethod
    def forward(
        ctx: Any, query_PAE: Tensor, key_PGE: Tensor, value_PGE: Tensor, block: _Block, last: bool, scoring: Scoring
    ) -> Tensor:
        packing, groups = block.packing, key_PGE.shape[1]
        queries = 1 if last else packing.lengths[0]
        query_BCAE = query_PAE.unflatten(0, (-1, queries)) * scoring.factor(query_PAE.shape[-1])
        query_BGXE = by_key(query_BCAE, groups)
        virtual = _by_history(key_PGE, packing), _by_history(value_PGE, packing)
        hidden_BCU = packing.hidden_from(queries, scoring.window)
        out_BGXE, kept = torch.empty_like(query_BGXE), []
        for histories in block.pieces(query_PAE.device):
            key_BGSE, value_BGSE = block.keys_and_values(virtual, histories)
            scores_BGXS = query_BGXE[histories] @ key_BGSE.transpose(2, 3)
            scores_BGRCU = scores_BGXS.unflatten(2, (-1, queries))[..., -hidden_BCU.shape[2] :]
            scores_BGRCU.masked_fill_(hidden_BCU[histories, None, None], -torch.inf)
            probability_BGXS = scores_BGXS.softmax(dim=-1)
            out_BGXE[histories] = probability_BGXS @ value_BGSE
            kept.append(probability_BGXS)
        ctx.block, ctx.scoring, ctx.queries = block, scoring, queries
        ctx.save_for_backward(query_BGXE, key_PGE, value_PGE, *kept)
        return by_token(out_BGXE, queries).flatten(2).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        query_BGXE, key_PGE, value_PGE, *kept = ctx.saved_tensors
        block: _Block = ctx.block
        packing, (_, groups, _, width) = block.packing, query_BGXE.shape
        virtual = _by_history(key_PGE, packing), _by_history(value_PGE, packing)
        gradient_BCAE = gradients[0].unflatten(0, (-1, ctx.queries)).unflatten(2, (-1, width))
        gradient_BGXE = by_key(gradient_BCAE, groups)
        to_query_BGXE, to_scores = torch.empty_like(query_BGXE), []
        for histories, probability_BGXS in zip(block.pieces(key_PGE.device), kept, strict=True):
            key_BGSE, value_BGSE = block.keys_and_values(virtual, histories)
            to_probability_BGXS = gradient_BGXE[histories] @ value_BGSE.transpose(2, 3)
            to_scores_BGXS = softmax_backward(to_probability_BGXS, probability_BGXS)
            to_query_BGXE[histories] = to_scores_BGXS @ key_BGSE
            to_scores.append(to_scores_BGXS[..., -packing.lengths[0] :])
        to_query = by_token(to_query_BGXE, ctx.queries).flatten(0, 1) * ctx.scoring.factor(width)
        probability_BGXV = torch.cat([part[..., -packing.lengths[0] :] for part in kept])
        to_key, to_value = (
            (weight_BGXV.transpose(2, 3) @ source_BGXE).transpose(1, 2).flatten(0, 1)
            for weight_BGXV, source_BGXE in (
                (torch.cat(to_scores), query_BGXE),
                (probability_BGXV, gradient_BGXE),
            )
        )
        return to_query, to_key, to_value, None, None, None


def _by_history(x_PGE: Tensor, packing: LatePacking) -> Tensor:
    """Return x_BVGE, the virtual tokens of each history."""
    return x_PGE.unflatten(0, (-1, packing.lengths[0]))
