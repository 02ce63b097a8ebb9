"""HSTU (Zhai et al., ICML 2024, arXiv 2402.17152): gated blocks with pointwise attention in place of softmax attention.

We deviate in two points. The softmax of the loss runs over the whole catalogue in place of sampled negatives, and
attention knows distances in items, not in time.
"""

from torch import nn

from laser.config.families.recommenders import HSTUConfig
from laser.families.esasrec import BlockRecommender
from laser.models.sequences.hstu import HSTUBlock


class HSTU(BlockRecommender):
    """HSTU: blocks of its own."""


def build(config: HSTUConfig, num_items: int) -> HSTU:
    """Build an untrained model from the settings of its section."""
    size, longest, dropout = config.hidden_size, config.max_history, config.dropout
    blocks = [HSTUBlock(size, config.num_heads, longest, dropout) for _ in range(config.num_layers)]
    return HSTU(num_items, longest, dropout, blocks, nn.LayerNorm(size))
