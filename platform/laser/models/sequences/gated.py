"""The gated transformer block of LiGR (arXiv 2502.03417), which eSASRec takes over (arXiv 2508.06450).

    X ← X + σ(X W_a) ⊙ Attention(Norm(X))
    X ← X + σ(X W_f) ⊙ SwiGLU(Norm(X))

The norms are RMS norms, and SwiGLU(X) = (SiLU(X W_1) ⊙ X W_2) W_3 (arXiv 2002.05202).

Shape suffixes: B batch, N history items, A attention heads, C width, F width of the feed-forward.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class GatedBlock(nn.Module):
    """One causal block.

    Args:
        hidden_size: C.
        num_heads: A; divides hidden_size.
        dropout: probability, on attention and both residual branches.
    """

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        width = round(8 / 3 * hidden_size)  # three matrices have the weights of two at 4 C
        self.attention_norm, self.feed_norm = nn.RMSNorm(hidden_size), nn.RMSNorm(hidden_size)
        self.project = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)
        self.attention_gate, self.feed_gate = nn.Linear(hidden_size, hidden_size), nn.Linear(hidden_size, hidden_size)
        self.up, self.down = nn.Linear(hidden_size, 2 * width, bias=False), nn.Linear(width, hidden_size, bias=False)

    def forward(self, states_BNC: Tensor) -> Tensor:
        """Return the next states_BNC. State n depends on the states up to n."""
        added_BNC = self._attend(self.attention_norm(states_BNC))
        states_BNC = states_BNC + self.attention_gate(states_BNC).sigmoid() * self._drop(added_BNC)
        gate_BNF, value_BNF = self.up(self.feed_norm(states_BNC)).chunk(2, dim=-1)
        added_BNC = self.down(F.silu(gate_BNF) * value_BNF)
        return states_BNC + self.feed_gate(states_BNC).sigmoid() * self._drop(added_BNC)

    def _attend(self, states_BNC: Tensor) -> Tensor:
        queries, keys, values = (split_heads(part, self.num_heads) for part in self.project(states_BNC).chunk(3, -1))
        dropout = self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, is_causal=True)
        return self.output(join_heads(read))

    def _drop(self, added_BNC: Tensor) -> Tensor:
        return F.dropout(added_BNC, self.dropout, self.training)


def split_heads(states_BNC: Tensor, num_heads: int) -> Tensor:
    """Deal the width out to the heads: [B, A, N, C / A]."""
    return states_BNC.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def join_heads(states: Tensor) -> Tensor:
    """Undo `split_heads`: states_BNC."""
    return states.transpose(1, 2).flatten(2)
