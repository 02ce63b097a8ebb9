"""Chooses the few single weights of a head's score by trial: of the recommender's blocks, the cosine and the history.

The parts of the score have unrelated scales. A learning rate that suits the other weights does not carry a single
weight to the next order of magnitude, and the likelihood wants other scales than a list's top (docs/laboratory.md).

Shape suffixes: S validation users, I items, C recommender width, D width of what the cosine compares.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from laser.evaluation.metrics import SELECTION_METRIC, ranking_metrics
from laser.evaluation.ranking import ranks

if TYPE_CHECKING:  # products alone do without scipy
    from scipy.sparse import csr_array

MOST_USERS = 8192
"""The weights are tried on at most this many validation users."""
MOST_SCORES = 2**25
"""Memory holds at most this many scores of these users for each part of the score: 128 MiB."""
EXPONENTS = range(-8, 9)
"""Powers of 2 that are tried in the first round for each weight."""
STEPS = ([2.0**exponent for exponent in EXPONENTS], [0.5, 0.7, 1.0, 1.4, 2.0], [0.7, 0.84, 1.0, 1.19, 1.4])
"""Factors that each round tries for each weight."""


def sampled_users(num_users: int, num_items: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Draw users, few enough that their scores take little memory for any catalogue."""
    size = max(1, min(MOST_USERS, MOST_SCORES // num_items))
    return np.sort(random.permutation(num_users)[:size])


@dataclass(frozen=True)
class Scores:
    """Holds each part of the scores that users give all items, at weight 1."""

    blocks: list[Tensor]
    """(S, I) of each of the recommender's blocks; of the first one, counted scores if there are any."""
    cosine_SI: Tensor
    own: tuple[Tensor, Tensor]
    """Row and id of each item of the histories."""
    targets_S: Tensor

    @staticmethod
    def of(
        states_SC: Tensor,
        states_IC: Tensor,
        block_widths: Sequence[int],
        users_SD: Tensor,
        items_ID: Tensor,
        own: tuple[Tensor, Tensor],
        targets_S: Tensor,
        counted_SI: "csr_array | None" = None,
    ) -> "Scores":
        """Multiply users with items, block by block. Counted scores take the place of the first block's products."""
        edges = list(pairwise(np.cumsum([0, *block_widths])))
        blocks = [] if counted_SI is None else [torch.from_numpy(counted_SI.toarray()).to(states_SC)]
        blocks += [states_SC[:, start:end] @ states_IC[:, start:end].T for start, end in edges[len(blocks) :]]
        return Scores(blocks, users_SD @ items_ID.T, own, targets_S)

    def ndcg(self, weights: Sequence[float], bias: float) -> float:
        """Return NDCG@10 at these weights of the blocks and of the cosine, and this bias on the histories' items."""
        scores_SI = self.blocks[0] * weights[0]
        for part_SI, weight in zip([*self.blocks[1:], self.cosine_SI], weights[1:], strict=True):
            scores_SI.add_(part_SI, alpha=weight)
        scores_SI.index_put_(self.own, scores_SI.new_tensor(bias), accumulate=True)
        return ranking_metrics(ranks(scores_SI, self.targets_S).cpu().numpy())[SELECTION_METRIC]

    def best_weights(self, cosine_unit: float, with_bias: bool) -> tuple[list[float], float]:
        """Return the weights of the blocks and, last, of the cosine, and the bias: those of the best NDCG@10.

        Three rounds with ever smaller steps choose one number after another. The bias comes first; without it, a part
        that ranks the history high would be judged by that. Each part joins the parts before it or stays out, because a
        misleading part would spoil the choice of all others.

        Args:
            cosine_unit: weight around which that of the cosine is looked for. A block's is such that the best items
                score 1 on average.
            with_bias: whether there is a bias.
        """
        units = [1.0 / max(1e-20, float(scores_SI.amax(dim=1).mean())) for scores_SI in self.blocks]
        units.append(cosine_unit)
        weights, bias = [units[0], *(0.0 for _ in units[1:])], 0.0
        for steps in STEPS:
            if with_bias:
                biases = [bias * step for step in steps] if bias else [0.0, *(-step for step in STEPS[0])]
                bias = max(biases, key=lambda candidate: self.ndcg(weights, candidate))
            for number in range(1, len(weights)):
                sizes = [weights[number] * step for step in steps]
                if not weights[number]:
                    sizes = [0.0, *(units[number] * step for step in STEPS[0])]
                tried = [[*weights[:number], size, *weights[number + 1 :]] for size in sizes]
                weights = max(tried, key=lambda candidate: self.ndcg(candidate, bias))
        weights[-1] = weights[-1] or units[-1] * STEPS[0][0]  # with 0 no gradient would reach the virtual tokens
        return weights, bias
