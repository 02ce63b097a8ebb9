"""Ways to split the users' sequences into training, validation and test.

A sequence is in time order. Training is its beginning, validation comes next, and test is its end. A way to split is a
function of the sequences of whole users; it says where training and validation end, and which interactions are left
out. Test ends where the sequence ends. What a split has to know of all users is in `Cuts`.

Shape suffixes: U users, R interactions (rows), I items in the source's numbering.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laser.config.families.splits import ColdSplit, LeaveOneOut, RatioSplit, SplitConfig, TemporalSplit

NUM_HELD_OUT = 2
"""Items of a user that leave-one-out holds out: one for validation and one for test."""
WARM, VALIDATION, TEST = 0, 1, 2
"""Role of an item in the split of cold items: it is trained on, or it is a target of validation, or of test."""


@dataclass(frozen=True)
class Sequences:
    """The interactions of some users, user after user, in time order."""

    starts: NDArray[np.int64]
    """First row of each user."""
    counts: NDArray[np.int64]
    """Interactions of each user, at least one."""
    items: NDArray[np.int32]
    """Item of each row, in the source's numbering."""
    times: NDArray[np.int64] | None
    """Time of each row; None where the source has none."""
    given: NDArray[np.int8] | None
    """The source's own split of each row: 0 training, 1 validation, 2 test; None where the source has none."""

    def sums(self, values_R: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return how many rows of each user are true."""
        return np.add.reduceat(values_R, self.starts, dtype=np.int64) if len(self.starts) else self.counts


@dataclass(frozen=True)
class Cuts:
    """What a split knows of all interactions together."""

    times: tuple[int, int] | None = None
    """temporal: validation begins at the first time, and test at the second."""
    roles_I: NDArray[np.int8] | None = None
    """cold: WARM, VALIDATION or TEST for each item."""


@dataclass(frozen=True)
class Ends:
    """Positions in each user's sequence at which training and validation end."""

    train_U: NDArray[np.int64]
    val_U: NDArray[np.int64]
    kept_R: NDArray[np.bool_] | None = None
    """Interactions that stay, among which positions are counted; None keeps all. Users of whom none stays are gone, and
    have no position."""


def leave_one_out(sequences: Sequences, config: LeaveOneOut, cuts: Cuts) -> Ends:
    """Keep the split that the source fixes, whose rows are sorted by split before time.

    Else hold out the last item for test and the one before it for validation. A user of fewer than three interactions
    only trains.
    """
    if sequences.given is not None:
        train_U = sequences.sums(sequences.given == 0)
        return Ends(train_U, train_U + sequences.sums(sequences.given == 1))
    held_out = np.where(sequences.counts > NUM_HELD_OUT, NUM_HELD_OUT, 0)
    train_U = sequences.counts - held_out
    return Ends(train_U, train_U + held_out // NUM_HELD_OUT)


def temporal(sequences: Sequences, config: TemporalSplit, cuts: Cuts) -> Ends:
    """Divide all sequences at the same two times."""
    assert cuts.times is not None and sequences.times is not None
    val_time, test_time = cuts.times
    return Ends(sequences.sums(sequences.times < val_time), sequences.sums(sequences.times < test_time))


def ratio(sequences: Sequences, config: RatioSplit, cuts: Cuts) -> Ends:
    """Hold out shares of each sequence, rounded down, and at least one item while two are left: test goes first.

    This is RecBole's rule (`split: {RS: …}`, `order: TO`).
    """
    # A share of 10 items such as .3 comes out as 2.9999999999999996.
    shares = (config.test_fraction, config.val_fraction)
    test_U, val_U = ((sequences.counts * share + 1e-9).astype(np.int64) for share in shares)
    train_U = sequences.counts - test_U - val_U
    one_to_test_U = (test_U == 0) & (train_U > 1)
    train_U = train_U - one_to_test_U
    one_to_val_U = (val_U == 0) & (train_U > 1)
    train_U = train_U - one_to_val_U
    return Ends(train_U, train_U + val_U + one_to_val_U)


def cold(sequences: Sequences, config: ColdSplit, cuts: Cuts) -> Ends:
    """Keep what each user took before the last cold item, without other cold ones, and this item as the target.

    Users without a cold item train. Users who begin with their last cold item are gone.
    """
    assert cuts.roles_I is not None
    roles_R = cuts.roles_I[sequences.items]
    user_R = np.repeat(np.arange(len(sequences.counts)), sequences.counts)
    last_U = np.full(len(sequences.counts), -1)
    cold_rows = np.flatnonzero(roles_R != WARM)
    last_U[user_R[cold_rows]] = cold_rows  # of several rows of a user the last assignment stays
    kept_R = (roles_R == WARM) & ((last_U[user_R] < 0) | (np.arange(len(roles_R)) < last_U[user_R]))
    train_U = sequences.sums(kept_R)
    has_target_U = (last_U >= 0) & (train_U > 0)
    kept_R[last_U[has_target_U]] = True
    is_val_U = has_target_U & (roles_R[last_U] == VALIDATION)
    there_U = train_U > 0
    return Ends(train_U[there_U], (train_U + is_val_U)[there_U], kept_R)


SPLITS: dict[str, Callable[[Sequences, Any, Cuts], Ends]] = {
    "leave_one_out": leave_one_out,
    "temporal": temporal,
    "ratio": ratio,
    "cold": cold,
}
"""Type of the section → function, which gets the section of its own type."""


def split(config: SplitConfig, sequences: Sequences, cuts: Cuts) -> Ends:
    """Split the sequences as the section says."""
    return SPLITS[config.type](sequences, config, cuts)


def cold_roles(present_I: NDArray[np.bool_], config: ColdSplit) -> NDArray[np.int8]:
    """Draw the role of each item; of those that are present, a share is cold.

    Args:
        present_I: whether the item has interactions.
        config: share and seed.
    """
    roles_I = np.full(len(present_I), WARM, dtype=np.int8)
    present = np.flatnonzero(present_I)
    num_cold = max(2, round(config.fraction * len(present)))
    drawn = np.random.default_rng(config.seed).permutation(present)[:num_cold]
    roles_I[drawn[::2]], roles_I[drawn[1::2]] = TEST, VALIDATION
    return roles_I
