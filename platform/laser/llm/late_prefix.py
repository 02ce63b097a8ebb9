"""The late prefix: virtual tokens after the text read its keys and values, and no text is run again.

The paper puts the prefix before the text, so every token of the text depends on trained ones, and a step runs all of
them (4 · N · (T + L + 1) operations a history, forward and backward). Under causal attention, what stands before the
virtual tokens depends on nothing that is trained. So `[text; prefix; suffix]` costs 4 · N · (L + 1).

Shape suffixes: B histories, T tokens of the longest text, V virtual tokens of a history, P = B · V, A query heads, G
key and value heads, X = A / G · V queries that share a key, E head width, H LLM width.
"""

from dataclasses import dataclass
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

PIECE_TOKENS = 2048
"""Tokens of text whose keys and values a CPU takes at once; 1.5 MiB a block of SmolLM2 in bf16."""


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
    for number in range(llm.config.get_text_config().num_hidden_layers):
        states = text.block(number, turns, virtual_BVH.device)
        cache.update(*(_by_head(state.gather(1, _like(left_BT, state))) for state in states), number)
    seen_BS = torch.cat([mask_BT.gather(1, left_BT), mask_BT.new_ones(len(length_B), virtual)], dim=1)
    return llm(
        inputs_embeds=virtual_BVH,
        past_key_values=cache,
        attention_mask=seen_BS.long(),
        position_ids=length_B[:, None] + torch.arange(virtual, device=length_B.device),
        use_cache=True,
    ).last_hidden_state[:, -1]


def _like(index_BT: Tensor, state_BTGE: Tensor) -> Tensor:
    return index_BT[:, :, None, None].expand_as(state_BTGE)


def _by_head(state_BTGE: Tensor) -> Tensor:
    return state_BTGE.transpose(1, 2).contiguous()


@dataclass(frozen=True)
class LatePacking(Packing):
    """Virtual tokens, history after history. Each sees its history's text and the virtual tokens before it."""

    text: TextStates
    turns: Turns | None
    """For each block, what turns the text's keys to their places."""
    kernels: Kernels
    hidden: dict[tuple[int, int | None], Tensor]
    """What queries do not see, by their number and the window; made at first use."""

    @staticmethod
    def after(text: TextStates, virtual: int, turns: Turns | None, kernels: Kernels) -> "LatePacking":
        """Return the packing of so many virtual tokens after each text."""
        length_B = text.places.length_B
        packing = Packing.of(torch.full_like(length_B, virtual))
        position_P = packing.position_P + length_B.repeat_interleave(virtual)
        return LatePacking(
            packing.lengths, packing.offsets_B1, packing.last_B, position_P, text, turns, kernels, hidden={}
        )

    def hidden_from(self, queries: int, window: int | None) -> Tensor:
        """Return what the last so many virtual tokens do not see of text and virtual tokens, hidden_BCS."""
        if (queries, window) not in self.hidden:
            self.hidden[queries, window] = self._hidden_from(queries, window)
        return self.hidden[queries, window]

    def _hidden_from(self, queries: int, window: int | None) -> Tensor:
        length_B1, virtual = self.text.places.length_B[:, None], self.lengths[0]
        device, longest = length_B1.device, self.text.places.row_BT.shape[1]
        text_position_BT = torch.arange(longest, device=device).expand(len(length_B1), -1)
        virtual_BV = length_B1 + torch.arange(virtual, device=device)
        key_BS, query_BC1 = torch.cat([text_position_BT, virtual_BV], dim=1), virtual_BV[:, -queries:, None]
        seen_BCS = key_BS[:, None] <= query_BC1
        if window is not None:
            seen_BCS &= key_BS[:, None] > query_BC1 - window
        is_text = torch.arange(longest + virtual, device=device) < longest
        padding_BS = is_text & (key_BS >= length_B1)
        return ~seen_BCS | padding_BS[:, None]

    def of_block(self, number: int) -> "_Block":
        return _Block(self, number)


@dataclass(frozen=True)
class _Block:
    """What one block asks of a `LatePacking`."""

    packing: LatePacking
    number: int

    @property
    def last_B(self) -> Tensor:
        return self.packing.last_B

    def attend(self, query_PAE: Tensor, key_PGE: Tensor, value_PGE: Tensor, last: bool, scoring: Scoring) -> Tensor:
        """Return the attention of all virtual tokens or, with `last`, of each history's last one: (P or B, A · E)."""
        return _LateAttention.apply(query_PAE, key_PGE, value_PGE, self, last, scoring)

    def pieces(self, device: torch.device) -> list[slice]:
        """Return the histories to take at once: few on a CPU, so that their text stays in its caches."""
        batch, longest = self.packing.text.places.row_BT.shape
        size = batch if device.type == "cuda" else max(1, PIECE_TOKENS // longest)
        return [slice(start, min(start + size, batch)) for start in range(0, batch, size)]

    def keys_and_values(self, key_PGE: Tensor, value_PGE: Tensor, histories: slice) -> tuple[Tensor, Tensor]:
        """Return keys and values of text and virtual tokens of some histories: two (B, G, S, E)."""
        packing = self.packing
        text = packing.text.block(self.number, packing.turns, key_PGE.device, packing.kernels, histories)
        key_BSGE, value_BSGE = (
            torch.cat([text_BTGE, x_PGE.unflatten(0, (-1, packing.lengths[0]))[histories]], dim=1)
            for text_BTGE, x_PGE in zip(text, (key_PGE, value_PGE), strict=True)
        )
        return key_BSGE.transpose(1, 2), value_BSGE.transpose(1, 2)


class _LateAttention(torch.autograd.Function):
    """Softmax attention, a few histories at a time. The backward pass gathers and turns the text again."""

    @staticmethod
    def forward(
        ctx: Any, query_PAE: Tensor, key_PGE: Tensor, value_PGE: Tensor, block: _Block, last: bool, scoring: Scoring
    ) -> Tensor:
        queries, groups = 1 if last else block.packing.lengths[0], key_PGE.shape[1]
        query_BCAE = query_PAE.unflatten(0, (-1, queries)) * scoring.factor(query_PAE.shape[-1])
        hidden_BCS = block.packing.hidden_from(queries, scoring.window)
        out_BCAE, kept = torch.empty_like(query_BCAE), []
        for histories in block.pieces(query_PAE.device):
            key_BGSE, value_BGSE = block.keys_and_values(key_PGE, value_PGE, histories)
            scores_BGXS = by_key(query_BCAE[histories], groups) @ key_BGSE.transpose(2, 3)
            scores_BGXS.unflatten(2, (-1, queries)).masked_fill_(hidden_BCS[histories, None, None], -torch.inf)
            probability_BGXS = scores_BGXS.softmax(dim=-1)
            out_BCAE[histories] = by_token(probability_BGXS @ value_BGSE, queries)
            kept.append(probability_BGXS)
        ctx.block, ctx.scoring = block, scoring
        ctx.save_for_backward(query_BCAE, key_PGE, value_PGE, *kept)
        return out_BCAE.flatten(2).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        query_BCAE, key_PGE, value_PGE, *kept = ctx.saved_tensors
        block: _Block = ctx.block
        virtual, groups = block.packing.lengths[0], key_PGE.shape[1]
        queries, factor = query_BCAE.shape[1], ctx.scoring.factor(query_BCAE.shape[-1])
        gradient_BCAE, to_query_BCAE = gradients[0].view(query_BCAE.shape), torch.empty_like(query_BCAE)
        to_key_BVGE, to_value_BVGE = (torch.empty_like(x).unflatten(0, (-1, virtual)) for x in (key_PGE, value_PGE))
        for histories, probability_BGXS in zip(block.pieces(key_PGE.device), kept, strict=True):
            key_BGSE, value_BGSE = block.keys_and_values(key_PGE, value_PGE, histories)
            gradient_BGXE = by_key(gradient_BCAE[histories], groups)
            to_scores_BGXS = softmax_backward(gradient_BGXE @ value_BGSE.transpose(2, 3), probability_BGXS)
            to_query_BCAE[histories] = by_token(to_scores_BGXS @ key_BGSE, queries)
            of_virtual = (to_scores_BGXS[..., -virtual:], probability_BGXS[..., -virtual:])
            sources = (by_key(query_BCAE[histories], groups), gradient_BGXE)
            for into, weight, source in zip((to_key_BVGE, to_value_BVGE), of_virtual, sources, strict=True):
                into[histories] = (weight.transpose(2, 3) @ source).transpose(1, 2)
        to_query = to_query_BCAE.mul_(factor).flatten(0, 1)
        return to_query, to_key_BVGE.flatten(0, 1), to_value_BVGE.flatten(0, 1), None, None, None
