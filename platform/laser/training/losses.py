"""The losses of Laser (arXiv 2409.01605, Eq. 8-12).

Shape suffixes: B batch, N history items, I catalogue items, K experts, H LLM width.

Every function returns the *sum* that the caller divides by the global batch's size, so that workers that hold unequal
shares of a batch add up to exactly the loss of one process.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def item_scores(representation_BH: Tensor, item_embeddings_IH: Tensor) -> Tensor:
    """Cosine of each history with each item, `scores_BI` in [-1, 1], float32 (paper, section 3)."""
    return F.normalize(representation_BH.float(), dim=-1) @ F.normalize(item_embeddings_IH.float(), dim=-1).T


def item_contrastive_loss(scores_BI: Tensor, targets_B: Tensor, weights_B: Tensor, temperature: float) -> Tensor:
    """Softmax cross-entropy of the scaled cosines over the whole catalogue, summed with weights (Eq. 8).

    Args:
        scores_BI: cosines, float32.
        targets_B: internal id of the item that came next, int64.
        weights_B: 1 for a real example, 0 for one that only fills a worker's share.
        temperature: τ.
    """
    losses_B = F.cross_entropy(scores_BI / temperature, targets_B, reduction="none")
    return (losses_B * weights_B).sum()


def expert_choice_counts(router_scores_BNK: Tensor, mask_BN: Tensor) -> Tensor:
    """History items whose largest router score is each expert, `counts_K` float32 (numerator of f_j, Eq. 10).

    It has no gradient. Summed over the workers and divided by the number of items it is f_j.
    """
    num_experts = router_scores_BNK.shape[-1]
    choices = router_scores_BNK.argmax(dim=-1)[mask_BN.bool()]
    return torch.bincount(choices, minlength=num_experts).float()


def load_balance_loss(gate_BNK: Tensor, mask_BN: Tensor, choice_fractions_K: Tensor) -> Tensor:
    """`K · Σ_j f_j · Σ_items p_j`, the load-balance loss times the number of history items (Eq. 9-11).

    The caller divides by the items of the global batch, which turns the sum over items into P_j.

    Args:
        gate_BNK: router probabilities of each history item (Eq. 6).
        mask_BN: true at real items.
        choice_fractions_K: f_j over the whole global batch, without gradient.
    """
    probability_sums_K = (gate_BNK * mask_BN[..., None]).sum(dim=(0, 1))
    return gate_BNK.shape[-1] * (choice_fractions_K.detach() * probability_sums_K).sum()
