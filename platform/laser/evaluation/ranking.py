"""Ranks of the wanted item among the whole catalogue. Never sampled candidates: they reorder systems.

Shape suffixes: B batch, I catalogue items.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def ranks(scores_BI: Tensor, targets_B: Tensor, mask_histories: Sequence[np.ndarray] | None = None) -> Tensor:
    """Rank of each target: 1 + the other items that score at least as high. All ties count against the model.

    So a scorer that gives every item the same score ranks every target last, and the order of ids decides nothing.

    Args:
        scores_BI: any float dtype; higher is better; -inf excludes an item.
        targets_B: int64, the wanted items.
        mask_histories: for each row, item ids that are never recommended (score -inf). A target that is itself
            masked ranks last.

    Returns:
        int64 ranks_B, from 1 to I.

    Raises:
        FloatingPointError: a score is NaN; every comparison with it is false, which would rank the target first.
    """
    if scores_BI.isnan().any():
        rows = int(scores_BI.isnan().any(dim=1).sum())
        raise FloatingPointError(f"NaN scores in {rows} of {len(scores_BI)} rows: the model has diverged")
    if mask_histories is not None:
        assert len(mask_histories) == len(scores_BI)
        lengths = torch.tensor([len(history) for history in mask_histories])
        rows_M = torch.arange(len(mask_histories)).repeat_interleave(lengths)
        items_M = torch.from_numpy(np.concatenate([np.asarray(h, dtype=np.int64) for h in mask_histories]))
        scores_BI = scores_BI.index_put(
            (rows_M.to(scores_BI.device), items_M.to(scores_BI.device)), scores_BI.new_tensor(-torch.inf)
        )
    wanted_B1 = scores_BI.gather(1, targets_B[:, None])
    return (scores_BI >= wanted_B1).sum(dim=1)  # the target is at least as high as itself: the 1 is counted
