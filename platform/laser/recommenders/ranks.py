"""The ranks that an ID-based recommender gives by itself: the baseline that Laser builds on."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from laser.cli.progress import SILENT_SECONDS, progress
from laser.data.batches import inference_batches, stack_right
from laser.data.examples import Examples
from laser.evaluation.lists import LIST_SIZE
from laser.evaluation.ranking import ranks, ranks_without_histories
from laser.evaluation.sparse_ranks import SparseRanking
from laser.evaluation.top_items import top_scores
from laser.evaluation.user_ranks import UserRanks
from laser.recommenders.base import SequentialRecommender, SparseScorer

if TYPE_CHECKING:  # recommenders that are trained run without scipy
    from scipy.sparse import csr_array

MAX_ITEMS_PER_FORWARD = 4_096
MAX_SCORES = 2**26
"""Scores that are in memory at once: 256 MiB."""

Ranked = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64] | None]
"""Ranks, ranks without the histories, and lists of a batch."""


def recommender_ranks(recommender: SequentialRecommender, examples: Examples, lists: bool = False) -> UserRanks:
    """Rank each example's target among all items, given the last ``max_history`` items before it.

    Where the examples name candidates, these stand for all items, also in the lists. With `lists`, the recommended list
    of each user is made too. The masked ranks leave the whole history out of the candidates. Dropout is off during the
    call, and the recommender's mode is restored after it.
    """
    examples = examples.last(recommender.max_history)
    ranks_E, masked_E = np.empty((2, len(examples)), dtype=np.int64)
    num_items = recommender.num_items if examples.candidates is None else len(examples.candidates)
    lists_EK = np.empty((len(examples), min(LIST_SIZE, num_items) if lists else 0), dtype=np.int32)
    was_training = recommender.training
    recommender.eval()
    ranked = (
        _SparseRanks(recommender, examples.candidates)
        if isinstance(recommender, SparseScorer)
        else _DenseRanks(recommender, examples.candidates)
    )
    batches = [
        part
        for rows in inference_batches(examples.ends - examples.starts, MAX_ITEMS_PER_FORWARD)
        for part in np.split(rows, range(ranked.max_users, len(rows), ranked.max_users))
    ]
    label = f"rank {len(examples):,} users by {type(recommender).__name__}"
    with progress(batches, label, "batch", silent_seconds=SILENT_SECONDS) as steps, torch.inference_mode():
        for rows in steps:
            ranks_E[rows], masked_E[rows], lists_BK = ranked(examples, rows, lists)
            if lists_BK is not None:
                lists_EK[rows] = examples.items_at(lists_BK)
    recommender.train(was_training)
    if not lists:
        return UserRanks(examples.users, examples.targets, ranks_E, masked_E)
    return UserRanks(examples.users, examples.targets, ranks_E, masked_E, lists_EK, num_items)


def counted_scores(
    recommender: SequentialRecommender, examples: Examples, rows: NDArray[np.int64]
) -> "csr_array | None":
    """Return the recommender's counted scores of some examples' candidates, float32 scores_BI; None if it has none."""
    with torch.inference_mode():
        scores_BI = recommender.counted_scores(*_padded(recommender, examples.last(recommender.max_history), rows))
    return scores_BI if scores_BI is None or examples.candidates is None else scores_BI[:, examples.candidates]


class _DenseRanks:
    """Ranks a batch of users by the scores of all candidates."""

    def __init__(self, recommender: SequentialRecommender, candidates: NDArray[np.int64] | None) -> None:
        self.recommender = recommender
        self.candidates = None if candidates is None else torch.from_numpy(candidates).to(recommender.device)
        self.max_users = max(1, MAX_SCORES // recommender.num_items)

    def __call__(self, examples: Examples, rows: NDArray[np.int64], lists: bool) -> Ranked:
        scores_BI = self.recommender.scores(*_padded(self.recommender, examples, rows))
        if self.candidates is not None:
            scores_BI = scores_BI[:, self.candidates]
        targets, histories = examples.wanted(rows)
        targets_B = torch.from_numpy(targets).to(scores_BI.device)
        ranks_B = ranks(scores_BI, targets_B)
        masked_B = ranks_without_histories(ranks_B, scores_BI, targets_B, histories)
        lists_BK = top_scores(scores_BI, LIST_SIZE).cpu().numpy() if lists else None
        return ranks_B.cpu().numpy(), masked_B.cpu().numpy(), lists_BK


class _SparseRanks:
    """Ranks a batch of users by the items whose scores are their own."""

    def __init__(self, recommender: SparseScorer, candidates: NDArray[np.int64] | None) -> None:
        self.recommender, self.candidates = recommender, candidates
        shared_I = recommender.shared_scores
        self.ranking = SparseRanking(shared_I if candidates is None else shared_I[candidates])
        self.max_users = self.ranking.max_users

    def __call__(self, examples: Examples, rows: NDArray[np.int64], lists: bool) -> Ranked:
        entries_BI = self.recommender.score_entries(*_padded(self.recommender, examples, rows))
        own, lengths = examples.histories(rows, whole=True)
        targets: NDArray[Any] = examples.targets[rows]
        if self.candidates is not None:
            entries_BI = entries_BI[:, self.candidates]
            targets, histories = examples.wanted(rows)
            own, lengths = np.concatenate(histories), np.array([len(history) for history in histories])
        found = self.ranking.ranks(entries_BI, targets, own, lengths)
        return *found, self.ranking.lists(entries_BI, LIST_SIZE) if lists else None


def _padded(
    recommender: SequentialRecommender, examples: Examples, rows: NDArray[np.int64]
) -> tuple[torch.Tensor, torch.Tensor]:
    item_ids, mask = stack_right(*examples.histories(rows), 0)
    return torch.from_numpy(item_ids).to(recommender.device), torch.from_numpy(mask).to(recommender.device)
