"""The block of HSTU, the hierarchical sequential transduction unit (arXiv 2402.17152, Eq. 1-3).

    U, V, Q, K = split(SiLU(Norm(X) W_1))
    O = SiLU(Q Kᵀ + R) V / N
    X ← X + (Norm(O) ⊙ U) W_2

There is no softmax, so that the strength of an interest survives, and no feed-forward. R is a learnt number for each
head and distance in items. The paper's R has times too, which a history of ids lacks. N is the longest history.

Shape suffixes: B batch, N history items, A attention heads, C width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laser.models.sequences.gated import join_heads, split_heads


class HSTUBlock(nn.Module):
    """One causal block.

    Args:
        hidden_size: C.
        num_heads: A; divides hidden_size.
        max_history: N, longest history in items.
        dropout: probability, on what the block adds.
    """

    def __init__(self, hidden_size: int, num_heads: int, max_history: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.max_history, self.dropout = num_heads, max_history, dropout
        self.norm, self.read_norm = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        self.project = nn.Linear(hidden_size, 4 * hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.bias_AN = nn.Parameter(torch.zeros(num_heads, max_history))
        """R by distance: how many items ago."""

    def forward(self, states_BNC: Tensor) -> Tensor:
        """Return the next states_BNC. State n depends on the states up to n."""
        gate_BNC, *others = F.silu(self.project(self.norm(states_BNC))).chunk(4, dim=-1)
        values, queries, keys = (split_heads(part, self.num_heads) for part in others)
        places_N = torch.arange(states_BNC.shape[1], device=states_BNC.device)
        ago_NN = places_N[:, None] - places_N
        weights_BANN = F.silu(queries @ keys.transpose(-1, -2) + self.bias_AN[:, ago_NN.clamp(min=0)])
        read_BNC = join_heads(weights_BANN.masked_fill(ago_NN < 0, 0.0) @ values) / self.max_history
        added_BNC = self.output(self.read_norm(read_BNC) * gate_BNC)
        return states_BNC + F.dropout(added_BNC, self.dropout, self.training)
