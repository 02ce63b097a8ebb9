"""Attention whose keys and values are a few numbers of a user's own and pointers into a pool that all users share.

This is CollectiveKV (arXiv 2601.19178, ICLR 2026). S is what enters the attention. For keys, and alike for values:

    K_u = S W_k + b_k                 the own part, of width d_u
    M = S W_r + b_r,  j = argmax M    the router, over the m rows of the pool P
    K = [K_u, σ(M_j) P_j]             in training; without σ otherwise
    L_peak = -mean log σ(M_j)         draws the gate σ to 1, so that leaving it out changes little
    L_balance = log m + Σ p log p     p = mean softmax(M): draws the use of the pool's rows to even

What the paper leaves open is ours: the own part is dealt out evenly over the heads, each layer has a pool of its own,
and both losses are means over real items, routers and layers.

Shape suffixes: B batch, N history items, A attention heads, C width, D own width (d_u), G pool width, P pool rows (m).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laser.models.sequences.gated import join_heads, split_heads

INITIAL_STD = 0.02
"""Of all weights, as in GPT-2."""


class Stored(NamedTuple):
    """What has to be kept of each item to attend to it later."""

    own: tuple[Tensor, ...]
    """Numbers of its own, own_BND each."""
    rows: tuple[Tensor, ...]
    """Rows of the pools, int64 rows_BN each."""


class Routed(NamedTuple):
    """What a router has said of each item."""

    logits_BNP: Tensor
    top_BN: Tensor
    """The largest of an item's logits, M_j. What is trained by it alone is computed from it, not from all logits."""


class CollectiveAttention(nn.Module):
    """Causal attention with shared keys, values, both, or none.

    Args:
        hidden_size: C.
        num_heads: A; divides C and d_u.
        user_width: d_u. Keys or values that are not shared are as wide as C, unless none are: then both have d_u.
        pool_size: m.
        share: which are shared: kv, k, v or none.
        joint: one router for keys and values.
        dropout: probability, on attention.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        user_width: int,
        pool_size: int,
        share: str,
        joint: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.num_heads, self.dropout, self.scale = num_heads, dropout, (hidden_size / num_heads) ** -0.5
        self.shared = [name for name in ("k", "v") if name in share and share != "none"]
        own = {name: user_width if name in self.shared or share == "none" else hidden_size for name in ("k", "v")}
        width = user_width if share == "none" else hidden_size
        self.query, self.output = nn.Linear(hidden_size, width), nn.Linear(width, hidden_size)
        self.own = nn.ModuleDict({name: nn.Linear(hidden_size, own[name]) for name in own})
        routed = self.shared[:1] if joint else self.shared
        self.routers = nn.ModuleDict({name: nn.Linear(hidden_size, pool_size) for name in routed})
        self.pools = nn.ParameterDict(
            {name: nn.Parameter(torch.empty(pool_size, hidden_size - user_width)) for name in self.shared}
        )
        self.widths, self.num_rows = tuple(own.values()), len(routed)

    def initialise_pools(self) -> None:
        """Draw the rows as keys of the whole width would be: products of unit inputs with weights of INITIAL_STD."""
        for pool_PG in self.pools.values():
            nn.init.normal_(pool_PG, std=INITIAL_STD * self.query.in_features**0.5)

    def forward(self, states_BNC: Tensor, routed: list[Routed]) -> Tensor:
        """Return what is read, read_BNC; what the routers have said is appended to `routed`."""
        stored, own_routed = self.store(states_BNC)
        routed += own_routed
        gates = [one.top_BN[..., None].sigmoid() for one in own_routed] if self.training else None
        return self.attend(states_BNC, *self.restore(stored, gates))

    def store(self, states_BNC: Tensor) -> tuple[Stored, list[Routed]]:
        """Return what is kept of each item, and what the routers have said."""
        own = tuple(linear(states_BNC) for linear in self.own.values())
        routed, rows = [], []
        for router in self.routers.values():
            logits_BNP = router(states_BNC)
            top_BN, row_BN = logits_BNP.max(dim=-1)
            routed.append(Routed(logits_BNP, top_BN))
            rows.append(row_BN)
        return Stored(own, tuple(rows)), routed

    def restore(self, stored: Stored, gates: Sequence[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return keys and values of stored items, [B, A, N, width / A], with the pools' rows times the gates_BN1."""
        restored = []
        for name, own_BND in zip(self.own, stored.own, strict=True):
            heads = split_heads(own_BND, self.num_heads)
            if name in self.shared:
                router = min(self.shared.index(name), self.num_rows - 1)
                shared_BNG = F.embedding(stored.rows[router], self.pools[name])
                shared_BNG = shared_BNG if gates is None else shared_BNG * gates[router]
                heads = torch.cat([heads, split_heads(shared_BNG, self.num_heads)], dim=-1)
            restored.append(heads)
        return restored[0], restored[1]

    def attend(self, states_BNC: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Read the values for each state: causally, or where the mask [B, 1, 1, items] is true."""
        queries, dropout = split_heads(self.query(states_BNC), self.num_heads), self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=self.scale
        )
        return self.output(join_heads(read))


class LowRankAttention(CollectiveAttention):
    """A rival at equal bytes: keys and values are linear in one vector of 2 d_u numbers, as in DeepSeek's MLA.

    Args: as `CollectiveAttention`, without those of the pool.
    """

    def __init__(self, hidden_size: int, num_heads: int, user_width: int, dropout: float) -> None:
        super().__init__(hidden_size, num_heads, hidden_size, 1, "none", False, dropout)
        self.down = nn.Linear(hidden_size, 2 * user_width)
        self.own = nn.ModuleDict({name: nn.Linear(2 * user_width, hidden_size) for name in ("k", "v")})
        self.widths = (2 * user_width,)

    def store(self, states_BNC: Tensor) -> tuple[Stored, list[Routed]]:
        """Return what is kept of each item; there is no router."""
        return Stored((self.down(states_BNC),), ()), []

    def restore(self, stored: Stored, gates: Sequence[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return keys and values of stored items."""
        keys, values = (split_heads(linear(stored.own[0]), self.num_heads) for linear in self.own.values())
        return keys, values


class CollectiveBlock(nn.Module):
    """A block of GPT-2's form around such an attention: pre-norm, GELU, a feed-forward of four times the width.

    Args:
        attention: the attention.
        hidden_size: C.
        dropout: probability, on both residual branches.
    """

    def __init__(self, attention: CollectiveAttention, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.attention, self.dropout = attention, nn.Dropout(dropout)
        self.attention_norm, self.feed_norm = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        self.feed = nn.Sequential(
            nn.Linear(hidden_size, 4 * hidden_size), nn.GELU(), nn.Linear(4 * hidden_size, hidden_size)
        )
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=INITIAL_STD)
                nn.init.zeros_(part.bias)
        attention.initialise_pools()

    def forward(self, states_BNC: Tensor, routed: list[Routed]) -> Tensor:
        """Return the next states_BNC; see `CollectiveAttention`."""
        return self.add(states_BNC, self.attention(self.attention_norm(states_BNC), routed))

    def step(self, states_B1C: Tensor, past: Stored, mask_BN: Tensor) -> tuple[Tensor, Stored]:
        """Return the next state of one more item, and what is kept of it; `mask_BN` is true at real past items."""
        normed_B1C = self.attention_norm(states_B1C)
        now, _ = self.attention.store(normed_B1C)
        earlier, here = self.attention.restore(past), self.attention.restore(now)
        keys, values = (torch.cat(pair, dim=2) for pair in zip(earlier, here, strict=True))
        mask = F.pad(mask_BN, (0, 1), value=True)[:, None, None]
        return self.add(states_B1C, self.attention.attend(normed_B1C, keys, values, mask)), now

    def add(self, states_BNC: Tensor, read_BNC: Tensor) -> Tensor:
        """Add what the attention has read, and then what the feed-forward makes of it."""
        states_BNC = states_BNC + self.dropout(read_BNC)
        return states_BNC + self.dropout(self.feed(self.feed_norm(states_BNC)))


def peak_loss(routed: Sequence[Routed], mask_BN: Tensor) -> Tensor:
    """Return L_peak: 0 where every gate is open."""
    return torch.stack([-F.logsigmoid(one.top_BN)[mask_BN].mean() for one in routed]).mean()


def balance_loss(routed: Sequence[Routed], mask_BN: Tensor) -> Tensor:
    """Return L_balance: from 0 where the rows are used evenly to log m where one alone is."""
    weight_N = mask_BN.flatten() / mask_BN.sum()
    shares = [weight_N @ one.logits_BNP.softmax(dim=-1).flatten(0, 1) for one in routed]  # no copy of the real items
    return torch.stack([math.log(len(share_P)) + torch.xlogy(share_P, share_P).sum() for share_P in shares]).mean()
