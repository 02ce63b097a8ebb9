"""Keys and values of texts, as the blocks of a frozen LLM keep them: what the late prefix reads of a history.

Nothing that is trained stands before the text, so its keys and values never change. In each block they are rows, one
for each token of each text, and a history is a choice of rows. A text that lies elsewhere in the history than where it
was read has its keys turned by the distance (rotary positions are relative).

Shape suffixes: R rows, N blocks, G key and value heads, E head width, B histories, T tokens of the longest, Q tokens of
all texts, S segments of all histories, D distances.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from laser.llm.loading import Decoder
from laser.llm.packed.architectures import ARCHITECTURES
from laser.llm.packed.attention import Packing, Scoring
from laser.llm.packed.decoder import PackedDecoder
from laser.llm.packed.fused import EAGER, Kernels
from laser.llm.packed.rotation import turning
from laser.llm.text_files import StateShape

States = tuple[Tensor, ...]
"""For each block the keys, rotated as they were read, and values of all tokens: rows_R2GE, in the LLM's dtype."""

Turns = list[tuple[Tensor, Tensor]]
"""For each block the cosines and sines that turn a key by each distance, half a head wide, float32: two (D, E)."""


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
class Segments:
    """How histories are put together: each begins with the instruction, and items follow."""

    lengths_S: Tensor
    """int64; tokens of each segment, history after history. An instruction may have none."""
    counts_B: Tensor
    """int64; segments of each history, its instruction included."""

    @property
    def firsts_B(self) -> Tensor:
        """Number of each history's first segment."""
        return self.counts_B.cumsum(0) - self.counts_B

    def places(self, first_row_S: Tensor, moved: bool) -> Places:
        """Return where the rows of the segments lie, of which we know each segment's first one.

        Args:
            first_row_S: int64.
            moved: each item was read right after the instruction, and lies after the items before it.
        """
        history_S = torch.repeat_interleave(self.counts_B)
        length_B = torch.zeros_like(self.counts_B).index_add(0, history_S, self.lengths_S)
        row_BT, _ = padded(spread(first_row_S, self.lengths_S), length_B)
        if not moved:
            return Places(row_BT, None, length_B)
        ends_S = self.lengths_S.cumsum(0)
        after_instruction_S = ends_S - self.lengths_S - ends_S[self.firsts_B][history_S]
        distance_S = after_instruction_S.clamp(min=0)  # an instruction lies where it was read
        if not distance_S.any():  # histories of one item, as those of the catalogue
            return Places(row_BT, None, length_B)
        distance_BT, _ = padded(distance_S.repeat_interleave(self.lengths_S), length_B)
        return Places(row_BT, distance_BT, length_B)


@dataclass(frozen=True)
class TextStates:
    """Rows and their places in a batch of histories."""

    states: States
    """They may be memory-mapped files."""
    places: Places
    resident: bool = False
    """Whether these very rows serve all batches; else a batch has rows of its own."""

    @property
    def dtype(self) -> torch.dtype:
        """The LLM's."""
        return self.states[0].dtype

    @property
    def mask_BT(self) -> Tensor:
        """True at real tokens."""
        row_BT = self.places.row_BT
        return torch.arange(row_BT.shape[1], device=row_BT.device) < self.places.length_B[:, None]

    def turning(self, llm: Decoder) -> Turns | None:
        """Return for each block what turns the keys to their places; None where they are there."""
        distance_BT = self.places.distance_BT
        if distance_BT is None:
            return None
        config = llm.config.get_text_config()
        rotary = llm.rotary if isinstance(llm, PackedDecoder) else ARCHITECTURES[config.model_type].rotary(config)
        distance_D = torch.arange(distance_BT.shape[1], device=distance_BT.device)  # a key moves within its history
        return turning(config, rotary, distance_D)

    def block(
        self,
        number: int,
        turns: Turns | None,
        virtual: tuple[Tensor, Tensor],
        kernels: Kernels = EAGER,
        histories: slice = slice(None),
    ) -> tuple[Tensor, Tensor]:
        """Return keys and values of one block, those of virtual tokens after the text's: two (B, G, T + V, E).

        Those of padding mean nothing.

        Args:
            number: of the block.
            turns: what `turning` returned.
            virtual: keys and values of virtual tokens (B, V, G, E), for which `with_room` has made room.
            kernels: eager or compiled elementwise functions.
            histories: those of the batch to return.
        """
        row_BS, distance_BS = self.places.row_BT[histories], self.places.distance_BT
        turning = None if turns is None or distance_BS is None else (distance_BS[histories], *turns[number])
        states = kernels.look_up(self.states[number], row_BS, turning)
        for state_BGSE, virtual_BVGE in zip(states, virtual, strict=True):
            state_BGSE[:, :, row_BS.shape[1] - virtual_BVGE.shape[1] :] = virtual_BVGE[histories].transpose(1, 2)
        return states

    def with_room(self, tokens: int) -> "TextStates":
        """Return the same with room for so many virtual tokens after the longest text, which `block` fills."""
        row_BT, distance_BT, length_B = self.places.row_BT, self.places.distance_BT, self.places.length_B
        longer_BS = None if distance_BT is None else F.pad(distance_BT, (0, tokens))
        return replace(self, places=Places(F.pad(row_BT, (0, tokens)), longer_BS, length_B))


def read_histories(llm: Decoder, token_ids_Q: Tensor, length_B: Tensor) -> TextStates:
    """Read whole histories as ordinary text, in which a token sees all tokens before it."""
    segments = Segments(length_B, torch.ones_like(length_B))
    rows_NQ2GE = read_texts(llm, token_ids_Q, length_B)
    return TextStates(rows_NQ2GE.unbind(0), segments.places(length_B.cumsum(0) - length_B, moved=False))


def read_items(llm: Decoder, token_ids_Q: Tensor, segments: Segments) -> TextStates:
    """Read histories item by item: an item's text sees the instruction and itself alone."""
    lengths_S, firsts_B = segments.lengths_S, segments.firsts_B
    starts_S = lengths_S.cumsum(0) - lengths_S
    is_item_S = torch.ones_like(lengths_S, dtype=torch.bool).index_fill(0, firsts_B, False)
    instructions = firsts_B.repeat_interleave(segments.counts_B - 1)  # the segment before each item's own text
    both = torch.stack([instructions, is_item_S.nonzero()[:, 0]], dim=1).flatten()
    lengths = lengths_S[both].view(-1, 2).sum(dim=1)
    rows_NQ2GE = read_texts(llm, token_ids_Q[spread(starts_S[both], lengths_S[both])], lengths)
    text_starts = lengths.cumsum(0) - lengths
    first_row_S = torch.empty_like(lengths_S)
    first_row_S[is_item_S] = text_starts + lengths_S[instructions]
    first_row_S[firsts_B] = text_starts[firsts_B - torch.arange(len(firsts_B), device=firsts_B.device)]
    return TextStates(rows_NQ2GE.unbind(0), segments.places(first_row_S, moved=True))


def spread(first_S: Tensor, lengths_S: Tensor) -> Tensor:
    """Return the numbers from each first one on, as many as its length says: int64, one run after the other."""
    skipped_S = lengths_S.cumsum(0) - lengths_S
    return (first_S - skipped_S).repeat_interleave(lengths_S) + torch.arange(
        int(lengths_S.sum()), device=lengths_S.device
    )


def padded(values_Q: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Pad what is packed to the right with 0: return `values_BT`, and a mask that is true at real tokens."""
    mask_BT = torch.arange(int(lengths_B.max()), device=lengths_B.device) < lengths_B[:, None]
    values_BT = torch.zeros_like(mask_BT, dtype=values_Q.dtype)
    values_BT[mask_BT] = values_Q
    return values_BT, mask_BT


def stacked(above: Tensor, below: Tensor) -> Tensor:
    """Put two batches below each other; the one with the shorter second dimension is padded to the right with 0."""
    wider = max(above.shape[1], below.shape[1])
    rest = (0,) * 2 * (above.dim() - 2)
    return torch.cat([F.pad(part, (*rest, 0, wider - part.shape[1])) for part in (above, below)])


def joined_text(
    users: TextStates | Segments | None, items: TextStates | Segments | None
) -> TextStates | Segments | None:
    """Put the histories of users and those of items below each other; both are of one kind, and have the same rows."""
    if isinstance(users, Segments) and isinstance(items, Segments):
        return Segments(torch.cat([users.lengths_S, items.lengths_S]), torch.cat([users.counts_B, items.counts_B]))
    if isinstance(users, TextStates) and isinstance(items, TextStates):
        above, below = users.places, items.places
        distance_BT = None
        if above.distance_BT is not None or below.distance_BT is not None:
            distance_BT = stacked(
                *(torch.zeros_like(p.row_BT) if p.distance_BT is None else p.distance_BT for p in (above, below))
            )
        length_B = torch.cat([above.length_B, below.length_B])
        return TextStates(users.states, Places(stacked(above.row_BT, below.row_BT), distance_BT, length_B))
    assert users is None and items is None
    return None


def read_texts(llm: Decoder, token_ids_Q: Tensor, length_B: Tensor) -> Tensor:
    """Run texts through the LLM, each by itself, and return the states of all tokens, rows_NQ2GE, text after text.

    A gradient flows through them where weights of the LLM are trained.
    """
    trained = torch.is_grad_enabled() and any(weight.requires_grad for weight in llm.parameters())
    with torch.set_grad_enabled(trained):
        read = _packed if isinstance(llm, PackedDecoder) else _padded
        return read(llm, token_ids_Q, length_B)


def _packed(llm: PackedDecoder, token_ids_Q: Tensor, length_B: Tensor) -> Tensor:
    shape = StateShape.of(llm.config, llm.get_input_embeddings().weight.dtype)
    rows_NQ2GE = token_ids_Q.new_empty(shape.blocks, len(token_ids_Q), *shape.row, dtype=shape.dtype)
    packing = _Recording(**vars(Packing.of(length_B)), rows_NQ2GE=rows_NQ2GE)
    llm(llm.get_input_embeddings()(token_ids_Q), packing)
    return rows_NQ2GE


def _padded(llm: PreTrainedModel, token_ids_Q: Tensor, length_B: Tensor) -> Tensor:
    token_ids_BT, mask_BT = padded(token_ids_Q, length_B)
    cache = DynamicCache()  # without the config, it keeps what a sliding window has left
    llm(inputs_embeds=llm.get_input_embeddings()(token_ids_BT), past_key_values=cache, use_cache=True)
    states = [torch.stack([layer.keys, layer.values], dim=3) for layer in cache.layers]  # each (B, G, T, 2, E)
    return torch.stack([state.transpose(1, 2)[mask_BT].transpose(1, 2) for state in states])


@dataclass(frozen=True)
class _Recording(Packing):
    """A packing that keeps the keys and values of all blocks."""

    rows_NQ2GE: Tensor

    def of_block(self, number: int) -> "_RecordingBlock":
        return _RecordingBlock(self, number)


class _RecordingBlock(NamedTuple):
    """What one block asks of a `_Recording`."""

    packing: _Recording
    number: int

    def last_of(self, x_PH: Tensor) -> Tensor:
        return self.packing.last_of(x_PH)

    def attend(self, query_PAE: Tensor, key_PGE: Tensor, value_PGE: Tensor, last: bool, scoring: Scoring) -> Tensor:
        self.packing.rows_NQ2GE[self.number, :, 0] = key_PGE
        self.packing.rows_NQ2GE[self.number, :, 1] = value_PGE
        return self.packing.attend(query_PAE, key_PGE, value_PGE, last, scoring)
