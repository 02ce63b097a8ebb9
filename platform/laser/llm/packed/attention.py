"""Causal attention within each of many histories that lie one after the other in one sequence of tokens.

On a GPU a variable-length kernel of torch computes it. On a CPU torch has no such kernel, and its padded one runs at a
tenth of the speed of the matrix products around it (2 cores, AVX-512 BF16: 84 ms for 12 histories of 340 tokens, of
which the products themselves take 9). So attention is written here as plain matrix products, small enough for the
caches.

Shape suffixes: B histories, P packed tokens of all, A query heads, G key and value heads, R = A / G query heads that
share a key, E head width; within a group of histories of equal length: M histories, S tokens of each, C queries of a
chunk, K keys that some of them see, X = M · G.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from inspect import signature
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from laser.llm.packed.torch_private import softmax_backward

CHUNK = 128
"""Queries whose scores are made at once; keys that none of them sees are never touched."""
MAX_SCORES = 1 << 17
"""Scores of one head made at once; histories of equal length are taken together up to it (2 MiB in bf16 at 9 heads)."""


class Scoring(NamedTuple):
    """How a block makes its attention scores."""

    window: int | None = None
    """Most recent tokens that a token sees, itself included; None means all."""
    scale: float | None = None
    """Factor on the products of queries and keys; None means one over the root of a head's width."""

    def factor(self, head_width: int) -> float:
        """Return the factor on the products of queries and keys."""
        return head_width**-0.5 if self.scale is None else self.scale

    def first_seen(self, position: int) -> int:
        """Return the first position that a token at this position sees."""
        return 0 if self.window is None else max(0, position + 1 - self.window)


CAUSAL = Scoring()
"""Each token sees all tokens before it, at the usual scale."""


class Group(NamedTuple):
    """Neighbouring histories of equal length."""

    history: int
    """Number of the first history."""
    start: int
    """Packed position of its first token."""
    histories: int
    """Number of histories."""
    length: int
    """Tokens of each."""


class Attending(Protocol):
    """What a block asks of a packing."""

    def last_of(self, x_PH: Tensor) -> Tensor:
        """Return the row of each history's last token."""

    def attend(self, query_PAE: Tensor, key_PGE: Tensor, value_PGE: Tensor, last: bool, scoring: Scoring) -> Tensor:
        """Return the attention of all tokens or, with `last`, of each history's last one: (P or B, A · E)."""


@dataclass(frozen=True)
class Packing:
    """Where each history lies in the packed sequence."""

    lengths: tuple[int, ...]
    """Tokens of each history."""
    offsets_B1: Tensor
    """int32 (B + 1): history b is `[offsets[b], offsets[b + 1])`."""
    last_B: Tensor
    """Packed position of each history's last token."""
    position_P: Tensor
    """Position of each token in its history."""

    @staticmethod
    def of(lengths_B: Tensor) -> "Packing":
        """Return the packing of histories of these lengths (int64, at least 1)."""
        ends_B = lengths_B.cumsum(0)
        starts_P = torch.repeat_interleave(ends_B - lengths_B, lengths_B)
        return Packing(
            lengths=tuple(lengths_B.tolist()),
            offsets_B1=F.pad(ends_B, (1, 0)).int(),
            last_B=ends_B - 1,
            position_P=torch.arange(len(starts_P), device=lengths_B.device) - starts_P,
        )

    def of_block(self, number: int) -> "Attending":
        """Return what the block of this number attends by."""
        return self

    def last_of(self, x_PH: Tensor) -> Tensor:
        """Return the row of each history's last token."""
        return x_PH[self.last_B]

    def attend(self, query_PAE: Tensor, key_PGE: Tensor, value_PGE: Tensor, last: bool, scoring: Scoring) -> Tensor:
        """Return the attention of all tokens or, with `last`, of each history's last one: (P or B, A · E)."""
        return attend(query_PAE, key_PGE, value_PGE, self, last, scoring)

    @cached_property
    def groups(self) -> list[Group]:
        """Histories of equal length taken together, each group small enough for the caches."""
        groups, history, start = [], 0, 0
        for length, equal in groupby(self.lengths):
            left = len(list(equal))
            most = max(1, MAX_SCORES // (min(length, CHUNK) * length))
            while left:
                count = min(left, most)
                groups.append(Group(history, start, count, length))
                history, start, left = history + count, start + count * length, left - count
        return groups


def attend(
    query_PAE: Tensor, key_PGE: Tensor, value_PGE: Tensor, packing: Packing, last: bool, scoring: Scoring = CAUSAL
) -> Tensor:
    """Return `Packing.attend` by torch's kernel where it can compute it, else by products."""
    by = attend_by_kernel if query_PAE.is_cuda and query_PAE.dtype == torch.bfloat16 else attend_by_products
    return by(query_PAE, key_PGE, value_PGE, packing, last, scoring)


def attend_by_kernel(
    query_PAE: Tensor, key_PGE: Tensor, value_PGE: Tensor, packing: Packing, last: bool, scoring: Scoring = CAUSAL
) -> Tensor:
    """Return the attention of all tokens or, with `last`, of each history's last one: (P or B, A · E)."""
    from torch.nn.attention.varlen import varlen_attn

    shared: dict[str, Any] = {"enable_gqa": True} if _kernel_shares_keys() else {}
    if not shared:  # torch 2.11: each query head has a key head of its own
        each = query_PAE.shape[1] // key_PGE.shape[1]
        key_PGE, value_PGE = (heads.repeat_interleave(each, dim=1) for heads in (key_PGE, value_PGE))
    offsets, longest = packing.offsets_B1, max(packing.lengths)
    query_offsets = torch.arange(len(offsets), device=offsets.device, dtype=offsets.dtype) if last else offsets
    before = -1 if scoring.window is None else scoring.window - 1  # the kernel does not count the token itself
    attended = varlen_attn(
        query_PAE,
        key_PGE,
        value_PGE,
        query_offsets,
        offsets,
        1 if last else longest,
        longest,
        scale=scoring.scale,
        window_size=(before, -1 if last and before == -1 else 0),  # the last token has none after it to hide
        **shared,
    )
    assert isinstance(attended, Tensor)  # it returns more where more is asked for
    return attended.flatten(1)


@lru_cache
def _kernel_shares_keys() -> bool:
    """Return whether this torch's kernel lets query heads share a key head: 2.13 does, and 2.11 has no word for it."""
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in signature(varlen_attn).parameters


def attend_by_products(
    query_PAE: Tensor, key_PGE: Tensor, value_PGE: Tensor, packing: Packing, last: bool, scoring: Scoring = CAUSAL
) -> Tensor:
    """Return the same as `attend_by_kernel`, on any device and in any dtype."""
    return _Attention.apply(query_PAE, key_PGE, value_PGE, packing, last, scoring)


class _Attention(torch.autograd.Function):
    """Softmax attention by matrix products; the probabilities are kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, query_PAE: Tensor, key_PGE: Tensor, value_PGE: Tensor, packing: Packing, last: bool, scoring: Scoring
    ) -> Tensor:
        out_PAE = torch.empty_like(query_PAE, memory_format=torch.contiguous_format)
        groups, scale = key_PGE.shape[1], scoring.factor(query_PAE.shape[-1])
        kept = []
        for group in packing.groups:
            key_XSE, value_XSE = _keys(key_PGE, group), _keys(value_PGE, group)
            for first, end in _chunks(group, last):
                seen = slice(scoring.first_seen(first), end)
                query_XCE = by_key(_queries(query_PAE, group, first, end, last), groups).flatten(0, 1)
                scores_XCK = torch.baddbmm(
                    query_PAE.new_zeros(1), query_XCE, key_XSE[:, seen].transpose(1, 2), beta=0, alpha=scale
                )
                if not last:
                    _hide(scores_XCK.unflatten(1, (-1, end - first)), first, scoring)
                probability_XCK = scores_XCK.softmax(dim=-1)
                out_MCAE = _queries(out_PAE, group, first, end, last)
                attended_XCE = probability_XCK @ value_XSE[:, seen]
                out_MCAE.copy_(by_token(attended_XCE.unflatten(0, (-1, groups)), out_MCAE.shape[1]))
                kept.append(probability_XCK)
        ctx.packing, ctx.last, ctx.scoring = packing, last, scoring
        ctx.save_for_backward(query_PAE, key_PGE, value_PGE, *kept)
        return out_PAE.flatten(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        query_PAE, key_PGE, value_PGE, *kept = ctx.saved_tensors
        gradient_PAE = gradients[0].view(query_PAE.shape)
        to_query_PAE = torch.empty_like(query_PAE, memory_format=torch.contiguous_format)
        to_key_PGE, to_value_PGE = torch.empty_like(key_PGE), torch.empty_like(value_PGE)
        groups, scale = key_PGE.shape[1], ctx.scoring.factor(query_PAE.shape[-1])
        probabilities = iter(kept)
        for group in ctx.packing.groups:
            key_XSE, value_XSE = _keys(key_PGE, group), _keys(value_PGE, group)
            to_key_XSE, to_value_XSE = (torch.zeros(key_XSE.shape, device=key_XSE.device) for _ in range(2))
            for first, end in _chunks(group, ctx.last):
                seen = slice(ctx.scoring.first_seen(first), end)
                probability_XCK = next(probabilities)
                query_XCE = by_key(_queries(query_PAE, group, first, end, ctx.last), groups).flatten(0, 1)
                gradient_XCE = by_key(_queries(gradient_PAE, group, first, end, ctx.last), groups).flatten(0, 1)
                to_probability_XCK = gradient_XCE @ value_XSE[:, seen].transpose(1, 2)
                to_scores_XCK = softmax_backward(to_probability_XCK, probability_XCK).mul_(scale)
                to_query_MCAE = _queries(to_query_PAE, group, first, end, ctx.last)
                of_query_XCE = to_scores_XCK @ key_XSE[:, seen]
                to_query_MCAE.copy_(by_token(of_query_XCE.unflatten(0, (-1, groups)), to_query_MCAE.shape[1]))
                to_key_XSE[:, seen] += to_scores_XCK.transpose(1, 2) @ query_XCE
                to_value_XSE[:, seen] += probability_XCK.transpose(1, 2) @ gradient_XCE
            _tokens(to_key_PGE, group).copy_(to_key_XSE.unflatten(0, (group.histories, groups)).transpose(1, 2))
            _tokens(to_value_PGE, group).copy_(to_value_XSE.unflatten(0, (group.histories, groups)).transpose(1, 2))
        return to_query_PAE, to_key_PGE, to_value_PGE, None, None, None


def _hide(scores_XRCK: Tensor, first: int, scoring: Scoring) -> None:
    """Hide what a query does not see of the keys that its chunk sees, in place.

    Args:
        scores_XRCK: the scores of a chunk, a view.
        first: position of the chunk's first query.
        scoring: names the window.
    """
    queries, keys = scores_XRCK.shape[-2:]
    later = _later(scores_XRCK.dtype, scores_XRCK.device)
    scores_XRCK[..., keys - queries :] += later[:queries, :queries]  # the chunk's own keys are the last ones
    if scoring.window is None:
        return
    # The window's first key moves on with each query; those of the first `same` queries begin at the first key.
    same = scoring.first_seen(first) - (first + 1 - scoring.window)
    if queries > same + 1:
        moved = queries - same
        scores_XRCK[..., same:, :moved] += later[:moved, :moved].T


def _chunks(group: Group, last: bool) -> list[tuple[int, int]]:
    """Return the positions `[first, end)` of the queries to take at once."""
    if last:
        return [(group.length - 1, group.length)]
    return [(first, min(first + CHUNK, group.length)) for first in range(0, group.length, CHUNK)]


def _tokens(x_PNE: Tensor, group: Group) -> Tensor:
    """Return a view x_MSNE of a group's tokens."""
    rows = x_PNE[group.start : group.start + group.histories * group.length]
    return rows.view(group.histories, group.length, *x_PNE.shape[1:])


def _queries(x_PAE: Tensor, group: Group, first: int, end: int, last: bool) -> Tensor:
    """Return a view x_MCAE of a chunk of queries; with `last` there is one row for each history."""
    if last:
        return x_PAE[group.history : group.history + group.histories, None]
    return _tokens(x_PAE, group)[:, first:end]


def _keys(x_PGE: Tensor, group: Group) -> Tensor:
    """Return keys or values x_XSE of a group, by history and head."""
    return _tokens(x_PGE, group).transpose(1, 2).flatten(0, 1)


def by_key(x_MCAE: Tensor, groups: int) -> Tensor:
    """Return x_MG(R·C)E, with the queries that share a key head below each other, head by head."""
    return x_MCAE.unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4).flatten(2, 3)


def by_token(x_MGYE: Tensor, queries: int) -> Tensor:
    """Undo `by_key`, given the number of queries C: return x_MCAE."""
    return x_MGYE.unflatten(2, (-1, queries)).permute(0, 3, 1, 2, 4).flatten(2, 3)


@lru_cache
def _later(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return -inf where a key of a chunk comes after the query, else 0: (CHUNK, CHUNK)."""
    return torch.full((CHUNK, CHUNK), -torch.inf, dtype=dtype, device=device).triu_(1)
