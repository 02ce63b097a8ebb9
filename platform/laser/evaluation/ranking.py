"""Ranks of the wanted item among the whole catalogue. Candidates are never sampled: that reorders systems.

`ranks` reads given scores, and `ranks_without_histories` takes items out of them. `laser.evaluation.sparse_ranks` reads
sparse ones. `catalogue_ranks` multiplies them itself, a tile at a time, and keeps none.
`user_ranks` does so too, and changes the scores of single pairs (`laser.evaluation.pair_scores`). The items of the best
scores are in `laser.evaluation.top_items`.

Shape suffixes: B batch, U users of a tile, I catalogue items, T items of a tile, H width, P pairs of user and item.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import ceil

import numpy as np
import torch
from torch import Tensor

from laser.evaluation.pair_scores import PairScores

BLOCK_SCORES = 2**18
"""Given scores that a thread compares at once: 1 MiB, and 256 KiB of comparisons. With half of it, threads meet too
often at Python's lock."""
TILE_SCORES = 2**20
"""Scores compared at once. 4 MiB, and 4 MiB of comparisons, stay in the L3 cache from one pass to the next."""
TILE_SCORES_GPU = 2**27
"""The same on a GPU, which has no such cache and wants few, large products: 512 MiB, twice."""
TILE_USERS = 2048
"""Users of a tile: a tall tile has few doubtful scores a row, and a whole row of it is seldom looked at again."""
WIDENED_ELEMENTS = 2**22
"""Numbers of bfloat16 item embeddings that are float32 at once: 16 MiB."""
BOUND_COLUMNS = 64
"""Columns whose norms are bounded together. Parts of a score may have unlike scales: items of norm 1 beside counts of
norm 100, which a user weighs with 0.0002. One product of norms then bounds the error 100 times too high."""
PAIR_ELEMENTS = 2**16
"""Products summed at once when pairs are scored exactly: 512 KiB in float64, in the L2 cache. From 1 MiB on, glibc maps
fresh pages for each, and a pair takes 5 us instead of 1.2 (width 576, one core)."""
PAIR_ELEMENTS_GPU = 2**25
"""The same on a GPU: 256 MiB in float64."""


def ranks(scores_BI: Tensor, targets_B: Tensor) -> Tensor:
    """Rank of each target: 1 + the other items that score at least as high. All ties count against the model.

    So a scorer that gives every item the same score ranks every target last, and the order of ids decides nothing.

    Args:
        scores_BI: any float dtype; higher is better; -inf excludes an item.
        targets_B: int64, the wanted items.

    Returns:
        int64 ranks_B, from 1 to I.

    Raises:
        FloatingPointError: a score is NaN; every comparison with it is false, which would rank the target first.
    """
    wanted_B1 = scores_BI.gather(1, targets_B[:, None])
    if scores_BI.device.type == "cpu":
        ranks_B, num_nan = _ranks_on_cpu(scores_BI.detach(), wanted_B1.detach())
    else:
        ranks_B = (scores_BI >= wanted_B1).sum(dim=1)
        num_nan = int(scores_BI.amax(dim=1).isnan().sum())
    if num_nan:
        raise FloatingPointError(f"NaN scores in {num_nan} of {len(scores_BI)} rows: the model has diverged")
    return ranks_B  # the target is at least as high as itself: the 1 is counted


def ranks_without_histories(
    ranks_B: Tensor, scores_BI: Tensor, targets_B: Tensor, histories: Sequence[np.ndarray]
) -> Tensor:
    """What `ranks` gives when the items of each user's own history have the score -inf. It looks at these alone.

    Args:
        ranks_B: int64, what `ranks` gives for the scores.
        scores_BI: any float dtype.
        targets_B: int64, the wanted items.
        histories: for each row, item ids, repeated or not. A target that is among them ranks last.

    Returns:
        int64 ranks_B, from 1 to I.
    """
    assert len(histories) == len(scores_BI)
    pairs = PairScores.of(histories, scores_BI.shape[1], scores_BI.device)
    rows_P, items_P = pairs.rows_P, pairs.items_P
    wanted_P = scores_BI[rows_P, targets_B[rows_P]]
    leaving_P = (scores_BI[rows_P, items_P] >= wanted_P) & (wanted_P > -torch.inf)
    masked_B = ranks_B.index_add(0, rows_P, -leaving_P.long())
    masked_B[rows_P[items_P == targets_B[rows_P]]] = scores_BI.shape[1]
    return masked_B


def _ranks_on_cpu(scores_BI: Tensor, wanted_B1: Tensor) -> tuple[Tensor, int]:
    """Ranks, and the number of rows with NaN.

    A block of scores waits for memory once, in the pass that compares, and for the cache in those that count and look
    for NaN. Each thread has blocks of its own, so one of them fetches while another counts; threads that share a block,
    as those of torch's operators do, all wait and then all leave the memory idle. Numpy compares four times faster
    into bools than torch (0.07 ns a score in the L2 cache, one core), and lets threads run meanwhile.
    """
    if scores_BI.dtype not in (torch.float32, torch.float64):  # numpy has no bfloat16
        scores_BI, wanted_B1 = scores_BI.float(), wanted_B1.float()
    scores, wanted = scores_BI.numpy(), wanted_B1.numpy()
    num_users, num_items = scores.shape
    ranks_B = np.zeros(num_users, dtype=np.int64)
    nan_B = np.zeros(num_users, dtype=bool)
    block_users, block_items = max(1, BLOCK_SCORES // num_items), min(num_items, BLOCK_SCORES)
    starts = iter(range(0, num_users, block_users))  # the threads draw from it in turn

    def rank_blocks(_: int) -> None:
        buffer = np.empty((block_users, block_items), dtype=bool)
        for start in starts:
            users = slice(start, start + block_users)
            for first in range(0, num_items, block_items):
                block = scores[users, first : first + block_items]
                at_least = np.greater_equal(block, wanted[users], out=buffer[: len(block), : block.shape[1]])
                ranks_B[users] += [np.count_nonzero(row) for row in at_least]
                if np.isnan(block.max()):
                    nan_B[users] |= np.isnan(block).any(axis=1)

    num_threads = min(torch.get_num_threads(), ceil(num_users / block_users))
    if num_threads <= 1:
        rank_blocks(0)
    else:
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(rank_blocks, range(num_threads)))  # the list raises what a thread raised
    return torch.from_numpy(ranks_B), int(nan_B.sum())


@torch.no_grad()
def catalogue_ranks(
    representation_BH: Tensor, item_embeddings_IH: Tensor, targets_B: Tensor, bias_B: Tensor | None = None
) -> Tensor:
    """`ranks` of the dot products of each representation with each item, in memory that grows with neither B nor I.

    A score is the dot product of two float32 vectors, summed in float64 and rounded to float32. The ranks of these
    scores are exact, ties included: equal items tie, and neither the tile nor the batch, the number of threads or
    workers, or the device's matrix product decides anything. That product is fast and wrong in its last bits, by at
    most γ_H = H u / (1 - H u) times both norms (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1;
    in any order of summation, u = 2^-24). So it decides all items but the few that it puts within that bound of the
    target, and these are scored again. Where the sum over parts of the vectors of both norms is less, it takes their
    product's place: the error is at most γ_H Σ |u_h| |v_h|, in which each part is at most its norms' product.

    Args:
        representation_BH: float32.
        item_embeddings_IH: float32, or bfloat16, which is widened a tile at a time; on the same device; norms of
            ordinary magnitude, 1e-15 to 1e15.
        targets_B: int64, the wanted items.
        bias_B: float32, added to the score that an item has to reach, which is the target's.

    Returns:
        int64 ranks_B, from 1 to I.

    Raises:
        FloatingPointError: a vector is not finite: the model has diverged.
    """
    error_B = error_bound(representation_BH, item_embeddings_IH)
    if bias_B is not None:
        error_B = error_B + bias_B.abs() * 2.0**-22  # roundings of the score and of the threshold
    ranks_B = torch.empty_like(targets_B)
    for start in range(0, len(targets_B), TILE_USERS):
        users = slice(start, start + TILE_USERS)
        wanted_U = exact_scores(
            representation_BH[users],
            item_embeddings_IH,
            torch.arange(len(targets_B[users]), device=targets_B.device),
            targets_B[users],
        )
        if bias_B is not None:
            wanted_U += bias_B[users]
        ranks_B[users] = _tiled_ranks(representation_BH[users], item_embeddings_IH, wanted_U, error_B[users])
    return ranks_B


@torch.no_grad()
def user_ranks(
    representation_BH: Tensor, item_embeddings_IH: Tensor, targets_B: Tensor, pairs: PairScores, bias: float
) -> tuple[Tensor, Tensor]:
    """What `catalogue_ranks` gives when single pairs score more or less than their products.

    A rank counts the items that reach the target's score, by the scores' exact definition. The pairs are scored again
    by the same definition, and counted with their values instead. So this is exact too, and costs as many products as
    there are pairs.

    Args:
        representation_BH: float32.
        item_embeddings_IH: float32 or bfloat16.
        targets_B: int64, the wanted items.
        pairs: counted scores and histories of these users.
        bias: added to the scores of the histories' items, a target's among them.

    Returns:
        int64 ranks_B, from 1 to I, twice: as they are, and with the histories' items left out. Then a target of the own
        history ranks last.
    """
    rows_B, values_P = torch.arange(len(targets_B), device=targets_B.device), pairs.values(bias)
    added_B = pairs.at(values_P, rows_B, targets_B)
    ranks_B = catalogue_ranks(representation_BH, item_embeddings_IH, targets_B, added_B)
    wanted_B = exact_scores(representation_BH, item_embeddings_IH, rows_B, targets_B) + added_B
    rows_P = pairs.rows_P
    exact_P = exact_scores(representation_BH, item_embeddings_IH, rows_P, pairs.items_P)
    with_P = exact_P + values_P >= wanted_B[rows_P]
    without_P = exact_P >= wanted_B[rows_P]
    masked_B = ranks_B.index_add(0, rows_P, (with_P & ~pairs.is_own_P).long() - without_P.long())
    masked_B[rows_P[pairs.is_own_P & (pairs.items_P == targets_B[rows_P])]] = len(item_embeddings_IH)
    return ranks_B.index_add(0, rows_P, with_P.long() - without_P.long()), masked_B


def error_bound(representation_BH: Tensor, item_embeddings_IH: Tensor) -> Tensor:
    """How far the device's product may be from the score of any item, as `catalogue_ranks` explains: float32 error_B.

    Raises:
        FloatingPointError: a vector is not finite: the model has diverged.
    """
    assert representation_BH.dtype == torch.float32
    assert item_embeddings_IH.dtype in (torch.float32, torch.bfloat16)
    assert torch.get_float32_matmul_precision() == "highest", "TF32 and bf16 products break the bound"
    width = representation_BH.shape[1]
    roundings = 1.01 * width + 8  # 1.01: the denominator of γ, the norms' own errors; 8: scores and thresholds
    chunks = item_chunks(item_embeddings_IH, max(1, WIDENED_ELEMENTS // width), torch.float32)
    largest = torch.stack([_norms(items_TH).amax(dim=0) for _, items_TH in chunks]).amax(dim=0)
    products_BN = _norms(representation_BH) * largest
    error_B = torch.minimum(products_BN[:, 0], products_BN[:, 1:].sum(dim=1)) * (roundings * 2.0**-24)
    if num_bad := int((~error_B.isfinite()).sum()):
        raise FloatingPointError(
            f"{num_bad} of {len(error_B)} users have a score that is not finite: the model has diverged"
        )
    return error_B


def _norms(vectors_RH: Tensor) -> Tensor:
    """Norms of whole vectors, then of each part of them: float32 (R, 1 + number of parts)."""
    number = vectors_RH.shape[1] // BOUND_COLUMNS
    equal_RH, rest_RH = vectors_RH.tensor_split([number * BOUND_COLUMNS], dim=1)
    equal_RN = equal_RH.unflatten(1, (number, BOUND_COLUMNS)).norm(dim=2)  # as fast as the norms of whole vectors
    parts_RN = torch.cat([equal_RN, rest_RH.norm(dim=1, keepdim=True)], dim=1)
    return torch.cat([parts_RN.norm(dim=1, keepdim=True), parts_RN], dim=1)


def _tiled_ranks(representation_UH: Tensor, item_embeddings_IH: Tensor, wanted_U: Tensor, error_U: Tensor) -> Tensor:
    """How many items reach the wanted scores of a tile's users, over all items: int64 ranks_U."""
    num_users = len(wanted_U)
    possible_U1, sure_U1 = (wanted_U - error_U)[:, None], (wanted_U + error_U)[:, None]
    tile = TILE_SCORES_GPU if wanted_U.is_cuda else TILE_SCORES
    most = 2**24  # float32 counts further items wrongly
    num_items = min(len(item_embeddings_IH), max(1, tile // num_users), most)
    if item_embeddings_IH.dtype != torch.float32:
        num_items = min(num_items, max(1, WIDENED_ELEMENTS // item_embeddings_IH.shape[1]))
    scores_UT, at_least_UT = representation_UH.new_empty(2, num_users, num_items)
    num_sure_U, num_possible_U = representation_UH.new_empty(2, num_users)
    ranks_U = torch.zeros_like(wanted_U, dtype=torch.int64)
    for _, items_TH in item_chunks(item_embeddings_IH, num_items, torch.float32):
        scores, at_least = scores_UT[:, : len(items_TH)], at_least_UT[:, : len(items_TH)]
        torch.mm(representation_UH, items_TH.T, out=scores)
        _count_at_least(scores, sure_U1, at_least, num_sure_U)
        _count_at_least(scores, possible_U1, scores, num_possible_U)
        doubtful_rows = (num_possible_U != num_sure_U).nonzero()[:, 0]
        rows_P, items_P = (scores[doubtful_rows] != at_least[doubtful_rows]).nonzero(as_tuple=True)
        users_P = doubtful_rows[rows_P]
        exact_P = exact_scores(representation_UH, items_TH, users_P, items_P)
        ranks_U += num_sure_U.long()
        ranks_U.index_add_(0, users_P, (exact_P >= wanted_U[users_P]).long())
    return ranks_U


def item_chunks(items_IH: Tensor, num_items: int, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """`(first item, items_TH)` of so many items at a time in the wanted dtype. The next chunk may overwrite the last.

    Widened, they share one buffer: of fresh ones glibc left 750 MiB of holes over 60,000 items of width 4096.
    """
    wide_TH = items_IH
    if items_IH.dtype != dtype:
        wide_TH = items_IH.new_empty(min(num_items, len(items_IH)), items_IH.shape[1], dtype=dtype)
    for start in range(0, len(items_IH), num_items):
        items_TH = items_IH[start : start + num_items]
        yield start, items_TH if items_IH.dtype == dtype else wide_TH[: len(items_TH)].copy_(items_TH)


def _count_at_least(scores_UT: Tensor, threshold_U1: Tensor, at_least_UT: Tensor, counts_U: Tensor) -> None:
    """Count the scores of each row that reach its threshold, into float32 `counts_U`.

    `at_least_UT` takes 1 where one does, else 0. Comparing into floats and adding these up takes 0.16 ns a score on one
    core; into bools, as `(scores >= threshold).sum()` does, 4.6.
    """
    torch.ge(scores_UT, threshold_U1, out=at_least_UT)
    torch.sum(at_least_UT, dim=1, dtype=torch.float32, out=counts_U)


def exact_scores(representation_UH: Tensor, items_TH: Tensor, users_P: Tensor, items_P: Tensor) -> Tensor:
    """The score of each pair, as `catalogue_ranks` defines it: float32 scores_P."""
    elements = PAIR_ELEMENTS_GPU if representation_UH.is_cuda else PAIR_ELEMENTS
    num_pairs = max(1, elements // representation_UH.shape[1])
    scores = [
        # A product of two float32 has 48 bits and is exact in float64.
        representation_UH[users].double().mul_(items_TH[items]).sum(dim=1).float()
        for users, items in zip(users_P.split(num_pairs), items_P.split(num_pairs), strict=True)
    ]
    return torch.cat(scores)
