"""Ways to split the users' sequences into training, validation and test.

A sequence is in time order. Training is its beginning, validation comes next, and test is its end. A way to split is a
function of the sequences of whole users; it says where training and validation end. Test ends where the sequence ends.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

NUM_HELD_OUT = 2
"""Items of a user that leave-one-out holds out: one for validation and one for test."""

SplitMethod = Literal["leave_one_out", "given"]


@dataclass(frozen=True)
class Sequences:
    """The interactions of some users, user after user, in time order."""

    starts: NDArray[np.int64]
    """First row of each user."""
    counts: NDArray[np.int64]
    """Interactions of each user, at least one."""
    given: NDArray[np.int8] | None
    """The source's own split of each row: 0 training, 1 validation, 2 test; None where the source has none."""


Ends = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Positions in each user's sequence at which training and validation end."""


def leave_one_out(sequences: Sequences) -> Ends:
    """Hold out the last item for test and the one before it for validation.

    A user of fewer than three interactions only trains.
    """
    held_out = np.where(sequences.counts > NUM_HELD_OUT, NUM_HELD_OUT, 0)
    train = sequences.counts - held_out
    return train, train + held_out // NUM_HELD_OUT


def given(sequences: Sequences) -> Ends:
    """Keep the split that the source fixes. Its rows are sorted by split before time."""
    assert sequences.given is not None
    if not len(sequences.starts):
        return sequences.counts, sequences.counts
    train = np.add.reduceat(sequences.given == 0, sequences.starts)
    return train, train + np.add.reduceat(sequences.given == 1, sequences.starts)


SPLITS: dict[SplitMethod, Callable[[Sequences], Ends]] = {"leave_one_out": leave_one_out, "given": given}


def split_ends(method: SplitMethod, sequences: Sequences) -> dict[str, NDArray[np.int32]]:
    """Return the columns of `splits.parquet`: where training, validation and test end in each user's sequence."""
    train, val = SPLITS[method](sequences)
    ends = {"train_end": train, "val_end": val, "test_end": sequences.counts}
    return {name: values.astype(np.int32) for name, values in ends.items()}
