"""Where training, validation and test end, by hand arithmetic."""

import numpy as np
import pytest

from laser.config.families.splits import ColdSplit, LeaveOneOut, RatioSplit, TemporalSplit
from laser.data.splits import SPLITS, TEST, VALIDATION, WARM, Cuts, Sequences, cold_roles, split

COUNTS = np.array([1, 2, 3, 5])
STARTS = np.cumsum(COUNTS) - COUNTS
ITEMS = np.array([0] + [1, 2] + [3, 4, 5] + [0, 6, 1, 7, 2], dtype=np.int32)
TIMES = np.array([7] + [1, 9] + [2, 3, 4] + [1, 5, 6, 8, 9])
GIVEN = np.array([0] + [0, 0] + [0, 1, 2] + [0, 0, 1, 1, 2], dtype=np.int8)
SECTIONS = {
    "leave_one_out": LeaveOneOut(),
    "temporal": TemporalSplit(),
    "ratio": RatioSplit(val_fraction=0.2, test_fraction=0.4),
    "cold": ColdSplit(),
}
ROLES = np.array([WARM, WARM, TEST, TEST, WARM, VALIDATION, VALIDATION, WARM], dtype=np.int8)
CUTS = Cuts(times=(5, 8), roles_I=ROLES)


def sequences(given: np.ndarray | None = None) -> Sequences:
    return Sequences(STARTS, COUNTS, ITEMS, TIMES, given)


def ends(name: str, given: np.ndarray | None = None) -> tuple[list[int], list[int]]:
    found = split(SECTIONS[name], sequences(given), CUTS)
    return found.train_U.tolist(), found.val_U.tolist()


def test_every_split_has_a_case_here():
    assert set(SECTIONS) == set(SPLITS)


@pytest.mark.parametrize("name", SPLITS)
def test_a_split_divides_each_sequence_in_order(name):
    found = split(SECTIONS[name], sequences(GIVEN), CUTS)
    kept = np.ones(len(ITEMS), dtype=bool) if found.kept_R is None else found.kept_R
    counts = np.add.reduceat(kept, STARTS)
    counts = counts[counts > 0]
    assert ((found.train_U >= 0) & (found.train_U <= found.val_U) & (found.val_U <= counts)).all()


@pytest.mark.parametrize("name", SPLITS)
def test_a_block_without_users_has_no_ends(name):
    none = np.array([], dtype=np.int64)
    found = split(SECTIONS[name], Sequences(none, none, none.astype(np.int32), none, none.astype(np.int8)), CUTS)
    assert len(found.train_U) == len(found.val_U) == 0


def test_leave_one_out_holds_out_two_items_of_users_with_three():
    assert ends("leave_one_out") == ([1, 2, 1, 3], [1, 2, 2, 4])


def test_leave_one_out_keeps_a_split_of_the_source():
    assert ends("leave_one_out", GIVEN) == ([1, 2, 1, 2], [1, 2, 2, 4])


def test_temporal_divides_all_users_at_the_same_times():
    assert ends("temporal") == ([0, 1, 3, 1], [1, 1, 3, 3])


def test_ratio_rounds_down_and_holds_out_one_item_where_two_are_left():
    # Of 5 items 2 are for test and 1 for validation; of 3 one each (.4 * 3 = 1, and one more); of 2 one for test.
    assert ends("ratio") == ([1, 1, 1, 2], [1, 1, 2, 3])


def test_ratio_does_not_lose_an_item_to_rounding():
    ten = Sequences(np.array([0]), np.array([10]), np.zeros(10, np.int32), None, None)
    found = split(RatioSplit(val_fraction=0.3, test_fraction=0.3), ten, Cuts())
    assert (found.train_U.tolist(), found.val_U.tolist()) == ([4], [7])


def test_cold_keeps_warm_items_before_the_last_cold_one():
    found = split(SECTIONS["cold"], sequences(), CUTS)
    # user 1 takes 1, then 2 (test); user 2 begins cold, takes 4 and then 5 (validation): 3 is left out;
    # user 3 takes 0, 6, 1, 7, 2: 6 is cold and left out, 2 is the target.
    assert found.kept_R is not None
    assert ITEMS[found.kept_R].tolist() == [0, 1, 2, 4, 5, 0, 1, 7, 2]
    assert (found.train_U.tolist(), found.val_U.tolist()) == ([1, 1, 1, 3], [1, 1, 2, 3])


def test_cold_leaves_out_users_who_begin_with_their_last_cold_item():
    found = split(
        SECTIONS["cold"],
        Sequences(np.array([0, 2]), np.array([2, 1]), np.array([2, 0, 3], dtype=np.int32), None, None),
        CUTS,
    )
    assert found.kept_R is not None and not found.kept_R.any()
    assert len(found.train_U) == 0


def test_half_of_the_cold_items_are_targets_of_test():
    present = np.arange(100) % 2 == 0
    roles = cold_roles(present, ColdSplit(fraction=0.2, seed=3))
    assert (roles == TEST).sum() == (roles == VALIDATION).sum() == 5
    assert (roles[~present] == WARM).all()
    assert not np.array_equal(roles, cold_roles(present, ColdSplit(fraction=0.2, seed=4)))
