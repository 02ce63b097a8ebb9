"""The ranks that an ID-based recommender gives by itself: the baseline that Laser builds on."""

import numpy as np
import torch

from laser.data.batches import inference_batches, pad_right
from laser.data.examples import Examples
from laser.evaluation.lists import LIST_SIZE
from laser.evaluation.ranking import ranks
from laser.evaluation.top_items import top_scores
from laser.evaluation.user_ranks import UserRanks
from laser.recommenders.base import SequentialRecommender

MAX_ITEMS_PER_FORWARD = 4_096


def recommender_ranks(recommender: SequentialRecommender, examples: Examples, lists: bool = False) -> UserRanks:
    """Rank each example's target among all items, given the last ``max_history`` items before it.

    With `lists`, the recommended list of each user is made too. The masked ranks leave the whole history out of the
    candidates. Dropout is off during the call, and the recommender's mode is restored after it.
    """
    examples = examples.last(recommender.max_history)
    ranks_E, masked_E = np.empty((2, len(examples)), dtype=np.int64)
    lists_EK = np.empty((len(examples), min(LIST_SIZE, recommender.num_items) if lists else 0), dtype=np.int32)
    device, was_training = recommender.device, recommender.training
    recommender.eval()
    with torch.inference_mode():
        for rows in inference_batches(examples.ends - examples.starts, MAX_ITEMS_PER_FORWARD):
            item_ids, mask = pad_right([examples.history(int(row)) for row in rows], 0)
            scores_BI = recommender.scores(torch.from_numpy(item_ids).to(device), torch.from_numpy(mask).to(device))
            targets_B = torch.from_numpy(examples.targets[rows].astype(np.int64)).to(device)
            ranks_E[rows] = ranks(scores_BI, targets_B).cpu().numpy()
            histories = [examples.whole_history(int(row)) for row in rows]
            masked_E[rows] = ranks(scores_BI, targets_B, histories).cpu().numpy()
            if lists:
                lists_EK[rows] = top_scores(scores_BI, LIST_SIZE).cpu().numpy()
    recommender.train(was_training)
    if not lists:
        return UserRanks(examples.users, examples.targets, ranks_E, masked_E)
    return UserRanks(examples.users, examples.targets, ranks_E, masked_E, lists_EK, recommender.num_items)
