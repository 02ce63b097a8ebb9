"""The late prefix: virtual tokens after the text read its keys and values, and no text is run again.

The paper puts the prefix before the text, so every token of the text depends on trained ones, and a step runs all of
them (4 · N · (T + L + 1) operations a history, forward and backward). Under causal attention, what stands before the
virtual tokens depends on nothing that is trained. So `[text; prefix; suffix]` costs 4 · N · (L + 1).

Shape suffixes: B histories, T tokens of the longest text, V virtual tokens of a history, P = B · V, A query heads, G
key and value heads, X = A / G · V queries that share a key, E head width, H LLM width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from laser.llm.loading import Decoder
from laser.llm.packed.attention import Packing, Scoring
from laser.llm.packed.decoder import PackedDecoder
from laser.llm.packed.fused import Kernels
from laser.llm.text_states import TextStates, Turns


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
        packing, virtual = self.packing, self.packing.lengths[0]
        text_key_BTGE, text_value_BTGE = packing.text.block(
            self.number, packing.turns, query_PAE.device, packing.kernels
        )
        batch, longest, groups, _ = text_key_BTGE.shape
        queries = 1 if last else virtual
        scaled_PAE = query_PAE * scoring.factor(query_PAE.shape[-1])
        query_BGXE = _by_key(scaled_PAE.unflatten(0, (batch, queries)), groups)
        key_BGVE, value_BGVE = (x.unflatten(0, (batch, virtual)).transpose(1, 2) for x in (key_PGE, value_PGE))
        scores_BGXS = torch.cat(
            [query_BGXE @ text_key_BTGE.permute(0, 2, 3, 1), query_BGXE @ key_BGVE.transpose(2, 3)], dim=-1
        )
        hidden_BCS = packing.hidden_from(queries, scoring.window)
        scores_BGXS.unflatten(2, (-1, queries)).masked_fill_(hidden_BCS[:, None, None], -torch.inf)
        to_text, to_virtual = scores_BGXS.softmax(dim=-1).split([longest, virtual], dim=-1)
        attended_BGXE = to_text @ text_value_BTGE.transpose(1, 2) + to_virtual @ value_BGVE
        return attended_BGXE.unflatten(2, (-1, queries)).permute(0, 3, 1, 2, 4).reshape(batch * queries, -1)


def _by_key(query_BCAE: Tensor, groups: int) -> Tensor:
    """Return query_BGXE, with the queries that share a key below each other, head by head."""
    return query_BCAE.unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4).flatten(2, 3)
