"""The items of the best scores for each user: the recommended list. The best is first; of equals the lowest id is.

`top_scores` reads given scores, and `top_items` multiplies them itself, as `ranks` and `catalogue_ranks` do
(`laser.evaluation.ranking`), with the same exact definition of a score.

Shape suffixes: B batch, U users of a tile, I catalogue items, T items of a tile, H width, P pairs of user and item,
K items of a list, M candidates for it.
"""

import numpy as np
import torch
from torch import Tensor

from laser.evaluation.pair_scores import PairScores
from laser.evaluation.ranking import TILE_SCORES, WIDENED_ELEMENTS, error_bound, exact_scores, item_chunks

TILE_USERS = 256
"""Users of a tile. Few, so that a tile has many items: a top-k costs a third per score over 4,096 items as over 512."""
SPARE_CANDIDATES = 6
"""Candidates beyond the list: the last one's product shows that no other item can be in it."""


def top_scores(scores_BI: Tensor, size: int) -> Tensor:
    """Items of the best given scores, in order: int64 lists_BK, K the smaller of `size` and I.

    Args:
        scores_BI: any float dtype, without NaN (`ranks` refuses it).
        size: items of a list.
    """
    size = min(size, scores_BI.shape[1])
    best_BK, items_BK = scores_BI.topk(size, dim=1)
    # The k-th score may be that of more items than there is room for, and top-k takes any of them.
    crowded_B = (scores_BI >= best_BK[:, -1:]).sum(dim=1) > size
    items_BK = _in_order(best_BK, items_BK)[1]
    if crowded_B.any():
        items_BK[crowded_B] = scores_BI[crowded_B].sort(dim=1, descending=True, stable=True).indices[:, :size]
    return items_BK


@torch.no_grad()
def top_items(
    representation_BH: Tensor,
    item_embeddings_IH: Tensor,
    size: int,
    pairs: PairScores | None = None,
    bias: float = 0.0,
) -> Tensor:
    """Items of the best dot products, in order, in memory bounded by a tile: int64 lists_BK.

    A score is exact, as `catalogue_ranks` defines it. The device's product chooses a few more candidates than the list
    holds, and these are scored exactly. No other item has a larger product than the last candidate, so none has a
    larger score than that product and the error bound together. Where this does not decide, all items whose product is
    near enough are scored exactly.

    Args:
        representation_BH: float32.
        item_embeddings_IH: float32 or bfloat16, on the same device.
        size: items of a list; K is the smaller of this and I.
        pairs: counted scores and histories of these users; None if the scores are the products.
        bias: added to the scores of the histories' items; finite, or -inf, which leaves them to the end of a list that
            has no others.

    Raises:
        FloatingPointError: a vector is not finite: the model has diverged.
    """
    error_B = error_bound(representation_BH, item_embeddings_IH)
    if pairs is None:
        pairs = PairScores.of([np.zeros(0)] * len(error_B), len(item_embeddings_IH), error_B.device)
    # What is added has its own roundings: in the product, in the score, and in the threshold between them.
    added_P = pairs.values(bias).abs().nan_to_num(posinf=0.0)
    if len(added_P):
        error_B = error_B + added_P.max() * 2.0**-22
    lists_BK = torch.empty(len(error_B), min(size, len(item_embeddings_IH)), dtype=torch.int64, device=error_B.device)
    for start in range(0, len(error_B), TILE_USERS):
        users = slice(start, start + TILE_USERS)
        tile = _Tile(representation_BH[users], item_embeddings_IH, pairs.part(start, start + TILE_USERS), bias)
        lists_BK[users] = tile.top_items(lists_BK.shape[1], error_B[users])
    return lists_BK


class _Tile:
    """Some users and their products with the catalogue, a part of it at a time."""

    def __init__(self, representation_UH: Tensor, item_embeddings_IH: Tensor, pairs: PairScores, bias: float) -> None:
        self.representation_UH, self.item_embeddings_IH = representation_UH, item_embeddings_IH
        self.pairs, self.values_P = pairs, pairs.values(bias)
        num_items = max(1, TILE_SCORES // len(representation_UH))
        if item_embeddings_IH.dtype != torch.float32:
            num_items = min(num_items, max(1, WIDENED_ELEMENTS // item_embeddings_IH.shape[1]))
        self.chunk_items = min(num_items, len(item_embeddings_IH))

    def top_items(self, size: int, error_U: Tensor) -> Tensor:
        """The lists of all users: int64 lists_UK."""
        products_UM, items_UM = self._candidates(min(size + SPARE_CANDIDATES, len(self.item_embeddings_IH)))
        scores_UM, items_UM = _in_order(self._scores(items_UM), items_UM)
        lists_UK, worst_U = items_UM[:, :size], scores_UM[:, size - 1]
        if items_UM.shape[1] < len(self.item_embeddings_IH):
            # An item outside could come equal, and go first by its id: equality does not decide either.
            undecided = (products_UM.amin(dim=1) + error_U >= worst_U).nonzero()[:, 0]
            if len(undecided):
                lists_UK = lists_UK.clone()
                lists_UK[undecided] = self._rescored(undecided, size, (worst_U - error_U)[undecided])
        return lists_UK

    def _candidates(self, size: int) -> tuple[Tensor, Tensor]:
        """The largest products of each user, in any order, and their items: products_UM, items_UM."""
        products = self.representation_UH.new_empty(len(self.representation_UH), 0)
        items = torch.empty_like(products, dtype=torch.int64)
        for start, items_TH in item_chunks(self.item_embeddings_IH, self.chunk_items, torch.float32):
            scores_UT = self._products(start, items_TH)
            best, places = scores_UT.topk(min(size, len(items_TH)), dim=1)
            products, items = torch.cat([products, best], dim=1), torch.cat([items, places + start], dim=1)
            products, places = products.topk(min(size, products.shape[1]), dim=1)
            items = items.gather(1, places)
        return products, items

    def _products(self, start: int, items_TH: Tensor) -> Tensor:
        """The device's products with a part of the catalogue, the values of the pairs added: products_UT."""
        products_UT, items_P = self.representation_UH @ items_TH.T, self.pairs.items_P
        here_P = (items_P >= start) & (items_P < start + len(items_TH))
        products_UT[self.pairs.rows_P[here_P], items_P[here_P] - start] += self.values_P[here_P]
        return products_UT

    def _scores(self, items_UM: Tensor) -> Tensor:
        """Exact scores of the candidates: scores_UM."""
        rows_P = torch.arange(len(items_UM), device=items_UM.device).repeat_interleave(items_UM.shape[1])
        return self._exact(rows_P, items_UM.flatten(), self.item_embeddings_IH, 0).view(items_UM.shape)

    def _exact(self, rows_P: Tensor, items_P: Tensor, items_TH: Tensor, start: int) -> Tensor:
        """The exact score of each pair, its value added. `items_TH` begins with item `start`, `items_P` are ids."""
        scores_P = exact_scores(self.representation_UH, items_TH, rows_P, items_P - start)
        return scores_P + self.pairs.at(self.values_P, rows_P, items_P)

    def _rescored(self, rows_D: Tensor, size: int, possible_D: Tensor) -> Tensor:
        """Lists of those users whom the candidates do not decide: all items with a product from `possible_D` on."""
        best_DK = self.representation_UH.new_empty(len(rows_D), 0)
        items_DK = torch.empty_like(best_DK, dtype=torch.int64)
        for start, items_TH in item_chunks(self.item_embeddings_IH, self.chunk_items, torch.float32):
            products_DT = self._products(start, items_TH)[rows_D]
            near_P, places_P = (products_DT >= possible_D[:, None]).nonzero(as_tuple=True)
            scores_DT = products_DT.fill_(-torch.inf)
            scores_DT[near_P, places_P] = self._exact(rows_D[near_P], places_P + start, items_TH, start)
            ids_DT = torch.arange(start, start + len(items_TH), device=rows_D.device).expand(len(rows_D), -1)
            scores, ids = torch.cat([best_DK, scores_DT], dim=1), torch.cat([items_DK, ids_DT], dim=1)
            # What was found before has lower ids and stands in front, so a stable sort keeps it there.
            places = scores.sort(dim=1, descending=True, stable=True).indices[:, :size]
            best_DK, items_DK = scores.gather(1, places), ids.gather(1, places)
        return items_DK


def _in_order(scores_BM: Tensor, items_BM: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and items, the best score first, of equals the lowest id first."""
    items_BM, places_BM = items_BM.sort(dim=1)
    scores_BM, order_BM = scores_BM.gather(1, places_BM).sort(dim=1, descending=True, stable=True)
    return scores_BM, items_BM.gather(1, order_BM)
