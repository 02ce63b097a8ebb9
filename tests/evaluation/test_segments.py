"""Groups of users, by hand."""

import numpy as np
import pytest

from laser.evaluation.segments import SEGMENTS, SegmentContext, segments

CONTEXT = SegmentContext(
    history_lengths_E=np.array([1, 2, 2, 3, 5, 8]),
    targets_E=np.array([0, 1, 2, 9, 0, 0], dtype=np.int32),
    train_counts_I=np.array([50, 1, 3, 40, 2, 2, 2, 2, 2, 0]),
    after_cut_E=np.array([0.0, 0.1, 0.49, 0.5, 0.99, 1.0]),
    horizons=2,
)


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_grouping_gives_every_user_one_named_group(name):
    grouping = SEGMENTS[name](CONTEXT)
    assert grouping is not None
    names, group_E = grouping
    assert len(group_E) == 6 and set(group_E) <= set(range(len(names))) and len(set(names)) == len(names)


def test_groups_by_hand():
    found = {name: users_E.nonzero()[0].tolist() for name, users_E in segments(CONTEXT).items()}
    assert found == {
        "history of 1 to 2 items": [0, 1, 2],
        "history of 3 to 5 items": [3, 4],
        "history of 6 to 8 items": [5],
        "target in the head (20% of the items)": [0, 4, 5],
        "target in the tail": [1, 2],
        "target cold (never trained on)": [3],
        "target in part 1 of 2 after the cut": [0, 1, 2],
        "target in part 2 of 2 after the cut": [3, 4, 5],
    }


def test_equal_histories_are_one_group_and_without_a_cut_there_is_no_horizon():
    alike = SegmentContext(np.full(4, 7), np.zeros(4, dtype=np.int32), np.array([1, 2]))
    assert list(segments(alike)) == ["history of 7 items", "target in the tail"]
