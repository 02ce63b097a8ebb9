"""What a trained run still ranks when its text cache keeps less: few numbers of each token, or a row of a pool.

Shape suffixes: R rows, D numbers of a row (heads times their width), I items, S segments, Q rows of all segments, G key
and value heads, E head width.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from laser.analysis.shared_states import POOL, directions, fitted_pool, nearest
from laser.config.schema import Experiment
from laser.evaluation.metrics import SELECTION_METRIC
from laser.llm.late_text import LateText, item_lengths
from laser.llm.text_memory import TextMemory, fetch
from laser.training.evaluate import evaluate_checkpoint
from laser.training.inputs import Inputs

RANKS = (8, 16, 32, 64, 96)
"""Numbers that are kept of a token's keys, and as many of its values, in each block."""

Shortening = Callable[[Tensor], Tensor]
"""What becomes of rows (R, D) of keys, or of values."""


def ranked_with_less(config: Experiment, inputs: Inputs, checkpoint: Path) -> dict[str, float]:
    """Return validation NDCG@10 by what is kept of the items' keys and values; the item embeddings stay as they are.

    Args:
        config: the run's experiment.
        inputs: its artifacts.
        checkpoint: directory of its selected weights.
    """
    ways: dict[str, Shortening] = {"whole": lambda rows_RD: rows_RD}
    ways |= {f"low rank, {rank} numbers": partial(low_rank, rank=rank) for rank in RANKS}
    ways[f"a pool of {POOL:,} rows"] = lambda rows_RD: nearest(rows_RD, fitted_pool(rows_RD))
    ways["the mean row"] = lambda rows_RD: rows_RD.mean(dim=0).expand_as(rows_RD)
    found = {}
    for name, shorten in ways.items():
        assert inputs.val.text is not None
        val = replace(inputs.val, text=shortened(inputs.val.text, shorten))
        found[name] = evaluate_checkpoint(config, replace(inputs, val=val), checkpoint, "val").metrics()[
            SELECTION_METRIC
        ]
    return found


def low_rank(rows_RD: Tensor, rank: int) -> Tensor:
    """Keep the mean row, and of each row its part in the leading directions of all."""
    mean_D = rows_RD.mean(dim=0)
    basis = directions(rows_RD - mean_D)[:, :rank]
    return mean_D + (rows_RD - mean_D) @ basis @ basis.T


def shortened(text: LateText, shorten: Shortening) -> LateText:
    """Return what a split reads of its histories when the items' keys and values are shortened, each block by itself.

    The instruction stays as it is: there is one for all users.
    """
    assert text.memory is not None and text.starts is not None
    lengths_S = np.concatenate([[len(text.prompts.instruction)], item_lengths(text.prompts)])
    first_row_S = np.concatenate([[text.instruction_start], text.starts])
    cpu = torch.device("cpu")
    states, starts_S = fetch(text.memory.states, torch.from_numpy(first_row_S), torch.from_numpy(lengths_S), cpu)
    instruction = int(lengths_S[0])
    for rows_Q2GE in states:
        for part in (0, 1):
            rows_RGE = rows_Q2GE[instruction:, part]
            rows_RGE.copy_(shorten(rows_RGE.float().flatten(1)).view(rows_RGE.shape))
    return replace(text, memory=TextMemory(states), starts=starts_S[1:].numpy(), instruction_start=0)
