"""SASRec with CollectiveKV: a user's cached keys and values are a few own numbers and pointers into shared pools.

The attention and its losses are in `laser.models.sequences.collective`, and what is cached in `cache` beside it. With
`share=none` and `user_width` equal to `hidden_size` it is a SASRec with a cache of the whole keys and values.

Shape suffixes: B batch, N history items, C recommender width, I catalogue items, M predicted positions.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laser.config.families.recommenders import CollectiveSASRecConfig
from laser.families.esasrec import BlockRecommender
from laser.models.sequences.cache import Cache, Padded, pack, padded, row_bytes, unpack
from laser.models.sequences.collective import (
    CollectiveAttention,
    CollectiveBlock,
    LowRankAttention,
    Routed,
    Stored,
    balance_loss,
    peak_loss,
)


class CollectiveSASRec(BlockRecommender):
    """SASRec over blocks with such an attention.

    Args:
        num_items: I.
        max_history: longest history in items.
        dropout: probability, on the embeddings.
        blocks: the blocks.
        norm: of the last states.
        peak_weight: weight of L_peak in the loss.
        balance_weight: weight of L_balance in the loss.
        cache_dtype: how own numbers are cached: bf16, fp32 or int8.
    """

    def __init__(
        self,
        num_items: int,
        max_history: int,
        dropout: float,
        blocks: Sequence[CollectiveBlock],
        norm: nn.Module,
        peak_weight: float,
        balance_weight: float,
        cache_dtype: str,
    ) -> None:
        super().__init__(num_items, max_history, dropout, blocks, norm)
        self.peak_weight, self.balance_weight, self.cache_dtype = peak_weight, balance_weight, cache_dtype

    @property
    def decoder(self) -> list[CollectiveBlock]:
        """The blocks."""
        return cast(list[CollectiveBlock], list(self.layers))

    @property
    def attentions(self) -> list[CollectiveAttention]:
        """The attention of each layer."""
        return [block.attention for block in self.decoder]

    @property
    def item_bytes(self) -> int:
        """Bytes that a cache takes for each item of a history."""
        return row_bytes(self.attentions, self.cache_dtype)

    def loss(self, item_ids_BN: Tensor, mask_BN: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean cross-entropy of every next item, and the weighted losses of the routers."""
        items_IC, predicted_BN = self._items(), mask_BN[:, 1:]
        states_BNC, routed = self.routed(F.embedding(item_ids_BN[:, :-1], items_IC))
        loss = F.cross_entropy(self._logits(states_BNC[predicted_BN], items_IC), item_ids_BN[:, 1:][predicted_BN])
        if routed:
            loss = loss + self.peak_weight * peak_loss(routed, predicted_BN)  # at items that have a next one
            loss = loss + self.balance_weight * balance_loss(routed, predicted_BN)
        return loss

    def routed(self, embeddings_BNC: Tensor) -> tuple[Tensor, list[Routed]]:
        """Return the states_BNC, and what all routers have said, layer after layer."""
        routed: list[Routed] = []
        states_BNC = self._placed(embeddings_BNC)
        for block in self.decoder:
            states_BNC = block(states_BNC, routed)
        return self.norm(states_BNC), routed

    def _read(self, embeddings_BNC: Tensor) -> Tensor:
        return self.routed(embeddings_BNC)[0]

    @torch.no_grad()
    def use_of_pools(self, item_ids_BN: Tensor, mask_BN: Tensor) -> dict[str, float]:
        """Return the mean gate, which serving leaves out, and the share of the rows that some item points to."""
        logits = [one.logits_BNP[mask_BN] for one in self.routed(self.items(item_ids_BN))[1]]
        if not logits:
            return {}
        gates = [one.amax(dim=-1).sigmoid().mean() for one in logits]
        used = [one.argmax(dim=-1).unique().numel() / one.shape[-1] for one in logits]
        return {"gate": float(torch.stack(gates).mean()), "rows_used": sum(used) / len(used)}

    def scores(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        """Return the logits scores_BI that caches of `cache_dtype` give: what is served is what is ranked by."""
        assert item_ids_BN.shape[1] <= self.max_history, "the caller cuts histories to max_history"
        last_B = item_ids_BN.gather(1, mask_BN.sum(dim=1, keepdim=True) - 1)[:, 0]
        return self._answer(Padded(self._rows(item_ids_BN[:, :-1]), mask_BN[:, 1:], last_B))

    def scores_of_ids(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        """Return the logits scores_BI without a cache, in one pass over the histories."""
        return super().scores(item_ids_BN, mask_BN)

    def prefill(self, item_ids_N: Tensor) -> Cache:
        """Return the cache of a history of at least one item, made in one pass over it."""
        return Cache(self._rows(item_ids_N[None, :-1])[0], int(item_ids_N[-1]))

    def extend(self, cache: Cache, item: int) -> Cache:
        """Return the cache with one more item, which costs one item and not the history."""
        assert len(cache.rows_NX) + 1 < self.max_history, "a longer history is prefilled anew, from its recent items"
        row_1X = pack(self._step(padded([cache]))[1], self.cache_dtype)[0]
        return Cache(torch.cat([cache.rows_NX, row_1X]), item)

    def cached_scores(self, caches: Sequence[Cache]) -> Tensor:
        """Return the scores_BI of several users from their caches."""
        return self._answer(padded(caches))

    def _rows(self, item_ids_BN: Tensor) -> Tensor:
        """Return what is cached of the items of histories: rows_BNX."""
        states_BNC, layers = self._placed(self.items(item_ids_BN)), []
        for block in self.decoder:
            layers.append(block.attention.store(block.attention_norm(states_BNC))[0])
            states_BNC = block(states_BNC, [])
        return pack(layers, self.cache_dtype)

    def _answer(self, users: Padded) -> Tensor:
        return self._logits(self.norm(self._step(users)[0])[:, 0], self._items())

    def _step(self, users: Padded) -> tuple[Tensor, list[Stored]]:
        """Pass each user's last item through the layers: states_B1C, and what is kept of it in each layer."""
        rows_BNX, mask_BN, last_B = users
        past = unpack(rows_BNX, self.attentions, self.cache_dtype)
        states_B1C = self._placed(self.items(last_B[:, None]), mask_BN.sum(dim=1))
        kept = []
        for block, stored in zip(self.decoder, past, strict=True):
            states_B1C, now = block.step(states_B1C, stored, mask_BN)
            kept.append(now)
        return states_B1C, kept


def build(config: CollectiveSASRecConfig, num_items: int) -> CollectiveSASRec:
    """Build an untrained model from the settings of its section."""
    size, dropout = config.hidden_size, config.dropout

    def attention() -> CollectiveAttention:
        if config.share == "low_rank":
            return LowRankAttention(size, config.num_heads, config.user_width, dropout)
        joint = config.router == "joint"
        return CollectiveAttention(
            size, config.num_heads, config.user_width, config.pool_size, config.share, joint, dropout
        )

    blocks = [CollectiveBlock(attention(), size, dropout) for _ in range(config.num_layers)]
    return CollectiveSASRec(
        num_items, config.max_history, dropout, blocks, nn.LayerNorm(size),
        config.peak_weight, config.balance_weight, config.cache_dtype,
    )  # fmt: skip
