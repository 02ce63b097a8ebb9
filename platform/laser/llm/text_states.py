"""Keys and values of texts, as the blocks of a frozen LLM keep them: what the late prefix reads of a history.

Nothing that is trained stands before the text, so its keys and values never change. They are rows, one for each token
of each text, and a history is a choice of rows. A text that lies elsewhere in the history than where it was read has
its keys turned by the distance (rotary positions are relative).

Shape suffixes: R rows, N blocks, G key and value heads, E head width, B histories, T tokens of the longest, Q tokens of
all texts, S segments of all histories.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from laser.llm.loading import Decoder
from laser.llm.packed.attention import Packing, Scoring
from laser.llm.packed.decoder import PackedDecoder
from laser.llm.packed.fused import EAGER, Kernels
from laser.llm.packed.rotation import turning

Turns = list[tuple[Tensor, Tensor]]
"""For each block, the cosines and sines that turn keys to their places."""


@dataclass(frozen=True)
class Segments:
    """How histories are put together: each begins with the instruction, and items follow."""

    lengths_S: Tensor
    """int64; tokens of each segment, history after history. An instruction may have none."""
    counts_B: Tensor
    """int64; segments of each history, its instruction included."""


@dataclass(frozen=True)
class Places:
    """Which rows make a history's text, and where they lie in it."""

    row_BT: Tensor
    """int64; right-padded with row 0."""
    distance_BT: Tensor | None
    """int64; positions by which each key is moved. None where every token lies where it was read."""
    length_B: Tensor
    """int64; tokens of each history."""


@dataclass(frozen=True)
class TextStates:
    """Rows and their places in a batch of histories."""

    rows_RN2GE: Tensor
    """Keys, rotated as they were read, and values, in the LLM's dtype; it may be a memory-mapped file."""
    places: Places

    @property
    def mask_BT(self) -> Tensor:
        """True at real tokens."""
        row_BT = self.places.row_BT
        return torch.arange(row_BT.shape[1], device=row_BT.device) < self.places.length_B[:, None]

    def turning(self, llm: Decoder) -> Turns | None:
        """Return for each block what turns the keys to their places; None where they are there."""
        if self.places.distance_BT is None:
            return None
        return turning(llm.config.get_text_config(), self.places.distance_BT)

    def block(
        self, number: int, turns: Turns | None, device: torch.device, kernels: Kernels = EAGER
    ) -> tuple[Tensor, Tensor]:
        """Return keys and values of one block at their places: two (B, T, G, E); those of padding mean nothing."""
        batch, longest = self.places.row_BT.shape
        rows = self.places.row_BT.flatten().to(self.rows_RN2GE.device)
        key_QGE, value_QGE = self.rows_RN2GE[:, number].index_select(0, rows).to(device).unbind(1)
        if turns is not None:
            cos_QE, sin_QE = (part.flatten(0, 1) for part in turns[number])
            key_QGE = kernels.rotate(key_QGE, cos_QE, sin_QE, key_QGE.shape[1])
        return key_QGE.unflatten(0, (batch, longest)), value_QGE.unflatten(0, (batch, longest))


def read_histories(llm: Decoder, token_ids_Q: Tensor, length_B: Tensor) -> TextStates:
    """Read whole histories as ordinary text, in which a token sees all tokens before it."""
    rows = read_texts(llm, token_ids_Q, length_B)
    ends_B = length_B.cumsum(0)
    row_BT = (ends_B - length_B)[:, None] + torch.arange(int(length_B.max()), device=length_B.device)
    row_BT = row_BT.where(row_BT < ends_B[:, None], 0)
    return TextStates(rows, Places(row_BT, None, length_B))


def read_items(llm: Decoder, token_ids_Q: Tensor, segments: Segments) -> TextStates:
    """Read histories item by item: an item's text sees the instruction and itself alone."""
    segments_of_history = [lengths.tolist() for lengths in segments.lengths_S.split(segments.counts_B.tolist())]
    texts, text_lengths, rows, distances = [], [], [], []
    start = first_row = 0
    for instruction, *items in segments_of_history:
        instruction_ids = token_ids_Q[start : start + instruction]
        start += instruction
        row, distance, moved = [torch.arange(first_row, first_row + instruction)], [torch.zeros(instruction).long()], 0
        for length in items:
            texts += [instruction_ids, token_ids_Q[start : start + length]]
            text_lengths.append(instruction + length)
            row.append(torch.arange(length) + first_row + instruction)
            distance.append(torch.full((length,), moved))
            start, moved, first_row = start + length, moved + length, first_row + instruction + length
        rows.append(torch.cat(row))
        distances.append(torch.cat(distance))
    device = token_ids_Q.device
    states = read_texts(llm, torch.cat(texts), torch.tensor(text_lengths, device=device))
    return TextStates(states, places(rows, distances, device))


def places(rows: list[Tensor], distances: list[Tensor] | None, device: torch.device) -> Places:
    """Pad the rows and distances of each history to the longest."""
    pad = torch.nn.utils.rnn.pad_sequence
    return Places(
        pad(rows, batch_first=True).to(device),
        None if distances is None else pad(distances, batch_first=True).to(device),
        torch.tensor([len(row) for row in rows], device=device),
    )


def joined_text(
    users: TextStates | Segments | None, items: TextStates | Segments | None
) -> TextStates | Segments | None:
    """Put the histories of users and those of items below each other; both are of one kind, and have the same rows."""
    if isinstance(users, Segments) and isinstance(items, Segments):
        return Segments(torch.cat([users.lengths_S, items.lengths_S]), torch.cat([users.counts_B, items.counts_B]))
    if isinstance(users, TextStates) and isinstance(items, TextStates):
        parts = (users.places, items.places)
        rows = [row_T[:length] for part in parts for row_T, length in zip(part.row_BT, part.length_B, strict=True)]
        moved = [part.distance_BT for part in parts if part.distance_BT is not None]
        distances = [d_T[: len(row)] for d_T, row in zip((d_T for part in moved for d_T in part), rows, strict=False)]
        return TextStates(users.rows_RN2GE, places(rows, distances or None, users.places.length_B.device))
    assert users is None and items is None
    return None


def read_texts(llm: Decoder, token_ids_Q: Tensor, length_B: Tensor) -> Tensor:
    """Run texts through the LLM, each by itself, and return the states of all tokens, rows_RN2GE, text after text.

    A gradient flows through them where weights of the LLM are trained.
    """
    trained = torch.is_grad_enabled() and any(weight.requires_grad for weight in llm.parameters())
    with torch.set_grad_enabled(trained):
        read = _packed if isinstance(llm, PackedDecoder) else _padded
        return read(llm, token_ids_Q, length_B)


def _packed(llm: PackedDecoder, token_ids_Q: Tensor, length_B: Tensor) -> Tensor:
    packing = _Recording.start(length_B)
    llm(llm.get_input_embeddings()(token_ids_Q), packing)
    return torch.stack(packing.states, dim=1)


def _padded(llm: PreTrainedModel, token_ids_Q: Tensor, length_B: Tensor) -> Tensor:
    mask_BT = torch.arange(int(length_B.max()), device=length_B.device) < length_B[:, None]
    token_ids_BT = torch.zeros_like(mask_BT, dtype=token_ids_Q.dtype)
    token_ids_BT[mask_BT] = token_ids_Q
    cache = DynamicCache()  # without the config, it keeps what a sliding window has left
    llm(inputs_embeds=llm.get_input_embeddings()(token_ids_BT), past_key_values=cache, use_cache=True)
    states = [torch.stack([layer.keys, layer.values], dim=3) for layer in cache.layers]  # each (B, G, T, 2, E)
    return torch.stack([state.transpose(1, 2)[mask_BT].transpose(1, 2) for state in states], dim=1)


@dataclass(frozen=True)
class _Recording(Packing):
    """A packing that keeps the keys and values of all blocks, in their order."""

    states: list[Tensor]

    @staticmethod
    def start(length_B: Tensor) -> "_Recording":
        return _Recording(**vars(Packing.of(length_B)), states=[])

    def attend(self, query_PAE: Tensor, key_PGE: Tensor, value_PGE: Tensor, last: bool, scoring: Scoring) -> Tensor:
        self.states.append(torch.stack([key_PGE, value_PGE], dim=1))
        return super().attend(query_PAE, key_PGE, value_PGE, last, scoring)
