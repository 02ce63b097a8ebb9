"""Computes the losses of Laser (arXiv 2409.01605, Eq. 8-12).

Shape suffixes: B batch, N history items, I catalogue items, K experts, H LLM width.

Every function returns a *sum*, which the caller divides by the global batch's size. So the losses of workers with
unequal shards add up to exactly the loss of one process.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from laser.evaluation.ranking import item_chunks

CHUNK_ELEMENTS = 2**20
"""A CPU multiplies this many numbers of the item embeddings at once: 4 MiB in float32. With bf16 items of width 4096
and 16 histories, 2^19 to 2^20 gave 32 to 34 GFLOP/s, 2^22 25, 2^24 21 (one core of a busy machine, CPU time)."""
GPU_CHUNK_ELEMENTS = 2**24
"""Other devices multiply this many at once, because a chunk costs some ten launches. Not measured."""


def item_scores(representation_BH: Tensor, item_embeddings_IH: Tensor) -> Tensor:
    """Return the cosine of each history with each item, `scores_BI` in [-1, 1], float32 (paper, section 3)."""
    return F.normalize(representation_BH.float(), dim=-1) @ F.normalize(item_embeddings_IH.float(), dim=-1).T


def item_contrastive_loss(
    vector_BD: Tensor,
    items_ID: Tensor,
    targets_B: Tensor,
    weights_B: Tensor,
    temperature: float,
    history_bias: Tensor | None = None,
    own_items: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return the softmax cross-entropy of the scaled scores over the whole catalogue, summed with weights (Eq. 8).

    Args:
        vector_BD: float32, the embedding of each history; its dot products with those of items are the scores.
        items_ID: the item embeddings, float32 or bfloat16; they get a gradient if they require one.
        targets_B: internal id of the item that came next, int64.
        weights_B: 1 for a real example, 0 for one that only fills a worker's shard.
        temperature: τ.
        history_bias: b, (1,), added to the scores of `own_items`.
        own_items: row and id of each item of the histories, int64, each pair once.
    """
    losses_B = catalogue_cross_entropy(vector_BD, items_ID, targets_B, temperature)
    if history_bias is not None and own_items is not None:
        losses_B = losses_B + _of_bias(losses_B, vector_BD, items_ID, targets_B, temperature, history_bias, own_items)
    return (losses_B * weights_B).sum()


def _of_bias(
    losses_B: Tensor,
    vector_BD: Tensor,
    items_ID: Tensor,
    targets_B: Tensor,
    temperature: float,
    history_bias: Tensor,
    own_items: tuple[Tensor, Tensor],
) -> Tensor:
    """Return how a bias on the histories' items (P pairs) changes each loss, without reading the other items.

    With probabilities p before the bias, it multiplies the sum of the exponentials by 1 + Σ_own p (e^(b/τ) - 1).
    """
    rows_P, items_P = own_items
    bias = history_bias / temperature

    def scores(rows: Tensor, items: Tensor) -> Tensor:
        # Not by indexing: its gradient is summed by several threads in an order that differs from run to run.
        own, others = vector_BD.index_select(0, rows), items_ID.index_select(0, items)
        return (own * others.to(vector_BD.dtype)).sum(dim=-1) / temperature

    normaliser_B = losses_B + scores(torch.arange(len(targets_B), device=targets_B.device), targets_B)
    probability_P = (scores(rows_P, items_P) - normaliser_B.index_select(0, rows_P)).exp()
    growth_B = torch.zeros_like(losses_B).index_add(0, rows_P, probability_P * bias.expm1())
    is_own_B = torch.zeros_like(losses_B).index_add(0, rows_P, (items_P == targets_B[rows_P]).to(losses_B.dtype))
    return growth_B.clamp(min=-1 + 1e-6).log1p() - bias * is_own_B


def candidate_contrastive_loss(scores_BM: Tensor, targets_B: Tensor, weights_B: Tensor, temperature: float) -> Tensor:
    """Return the softmax cross-entropy of the scaled scores over each history's own M candidates, summed with weights.

    Args:
        scores_BM: the candidates' scores, float32; -inf excludes a candidate.
        targets_B: index of the next item among the candidates, int64.
        weights_B: 1 for a real example, 0 for one that only fills a worker's shard.
        temperature: τ.
    """
    return (F.cross_entropy(scores_BM / temperature, targets_B, reduction="none") * weights_B).sum()


def catalogue_cross_entropy(
    queries_BH: Tensor, items_IH: Tensor, targets_B: Tensor, temperature: float, chunk_elements: int | None = None
) -> Tensor:
    """Return `-log softmax(queries · items / τ)` at each target, `losses_B`.

    The catalogue is read once, chunk by chunk, in memory that does not grow with it. The forward pass keeps the running
    maximum and sum of the exponentials (online softmax, arXiv 1805.02867). It also keeps the sum of the items, weighted
    by these exponentials, as in attention over the catalogue (arXiv 2205.14135). This sum gives the gradient to the
    queries. So the backward pass multiplies it by the incoming gradient and reads no item. Only a gradient to the items
    takes a second pass.

    Args:
        queries_BH: float32 or float64, which is also the dtype of the arithmetic.
        items_IH: any float dtype; each chunk is cast to the dtype of the queries.
        targets_B: int64.
        temperature: τ.
        chunk_elements: how many numbers of `items_IH` to read at once; None chooses by the device.
    """
    if chunk_elements is None:
        chunk_elements = CHUNK_ELEMENTS if items_IH.device.type == "cpu" else GPU_CHUNK_ELEMENTS
    num_items = max(1, chunk_elements // items_IH.shape[1])
    return _CatalogueCrossEntropy.apply(queries_BH, items_IH, targets_B, temperature, num_items)


class _CatalogueCrossEntropy(torch.autograd.Function):
    """Computes the loss and its gradients chunk by chunk. Shape suffix J: items of a chunk."""

    @staticmethod
    def forward(
        ctx: Any, queries_BH: Tensor, items_IH: Tensor, targets_B: Tensor, temperature: float, num_items: int
    ) -> Tensor:
        ctx.temperature, ctx.num_items = temperature, num_items
        highest_B1 = queries_BH.new_full((len(queries_BH), 1), -torch.inf)
        sum_B1, wanted_B1 = torch.zeros_like(highest_B1), torch.zeros_like(highest_B1)
        weighed_BH = torch.zeros_like(queries_BH) if ctx.needs_input_grad[0] else None
        for start, items_JH in item_chunks(items_IH, num_items, queries_BH.dtype):
            scores_BJ = (queries_BH @ items_JH.T).div_(temperature)
            place_B1, inside_B1 = _places(targets_B, start, len(items_JH))
            wanted_B1 = torch.where(inside_B1, scores_BJ.gather(1, place_B1), wanted_B1)
            higher_B1 = torch.maximum(highest_B1, scores_BJ.amax(dim=1, keepdim=True))
            exponentials_BJ = scores_BJ.sub_(higher_B1).exp_()
            fade_B1 = (highest_B1 - higher_B1).exp()
            sum_B1 = sum_B1 * fade_B1 + exponentials_BJ.sum(dim=1, keepdim=True)
            if weighed_BH is not None:
                weighed_BH.mul_(fade_B1).addmm_(exponentials_BJ, items_JH)
            highest_B1 = higher_B1
        normaliser_B1 = highest_B1 + sum_B1.log()
        gradient_BH = None
        if weighed_BH is not None:
            gradient_BH = weighed_BH.div_(sum_B1).sub_(items_IH[targets_B]).div_(temperature)
        again = (queries_BH, items_IH, targets_B, normaliser_B1) if ctx.needs_input_grad[1] else (None,) * 4
        ctx.save_for_backward(gradient_BH, *again)
        return (normaliser_B1 - wanted_B1)[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, incoming_B: Tensor) -> tuple[Tensor | None, ...]:
        gradient_BH, queries_BH, items_IH, targets_B, normaliser_B1 = ctx.saved_tensors
        to_queries_BH = None if gradient_BH is None else gradient_BH * incoming_B[:, None]
        if items_IH is None:
            return to_queries_BH, None, None, None, None
        to_items_IH = torch.empty_like(items_IH)
        scaled_B1 = incoming_B[:, None] / ctx.temperature
        for start, items_JH in item_chunks(items_IH, ctx.num_items, queries_BH.dtype):
            scores_BJ = (queries_BH @ items_JH.T).div_(ctx.temperature)
            excess_BJ = scores_BJ.sub_(normaliser_B1).exp_()  # the probability; 1 is subtracted at the target below
            place_B1, inside_B1 = _places(targets_B, start, len(items_JH))
            excess_BJ.scatter_add_(1, place_B1, -inside_B1.to(excess_BJ.dtype))
            to_items_IH[start : start + len(items_JH)] = excess_BJ.mul_(scaled_B1).T @ queries_BH
        return to_queries_BH, to_items_IH, None, None, None


def _places(targets_B: Tensor, start: int, num_items: int) -> tuple[Tensor, Tensor]:
    """Return each target's place in a chunk and whether it lies there, without a branch that waits for the GPU."""
    places_B1 = (targets_B - start)[:, None]
    return places_B1.clamp(0, num_items - 1), (places_B1 >= 0) & (places_B1 < num_items)


def expert_choice_counts(router_scores_BNK: Tensor, mask_BN: Tensor) -> Tensor:
    """Count the history items that score highest with each expert: `counts_K`, float32 (numerator of f_j, Eq. 10).

    The counts have no gradient. Their sum over all workers, divided by the number of items, is f_j.
    """
    num_experts = router_scores_BNK.shape[-1]
    choices = router_scores_BNK.argmax(dim=-1)[mask_BN.bool()]
    return torch.bincount(choices, minlength=num_experts).float()


def load_balance_loss(gate_BNK: Tensor, mask_BN: Tensor, choice_fractions_K: Tensor) -> Tensor:
    """Return `K · Σ_j f_j · Σ_items p_j`, the load-balance loss times the number of history items (Eq. 9-11).

    The caller divides it by the number of items of the global batch, which turns the sum over items into P_j.

    Args:
        gate_BNK: router probabilities of each history item (Eq. 6).
        mask_BN: true at real items.
        choice_fractions_K: f_j over the whole global batch, without gradient.
    """
    probability_sums_K = (gate_BNK * mask_BN[..., None]).sum(dim=(0, 1))
    return gate_BNK.shape[-1] * (choice_fractions_K.detach() * probability_sums_K).sum()
