"""Where training, validation and test end, by hand arithmetic."""

import numpy as np
import pytest

from laser.data.splits import SPLITS, Sequences, split_ends

COUNTS = np.array([1, 2, 3, 5])
STARTS = np.cumsum(COUNTS) - COUNTS
GIVEN = np.array([0] + [0, 0] + [0, 1, 2] + [0, 0, 1, 1, 2], dtype=np.int8)


@pytest.mark.parametrize("method", SPLITS)
def test_a_split_divides_each_sequence_in_order(method):
    ends = split_ends(method, Sequences(STARTS, COUNTS, GIVEN))
    assert list(ends) == ["train_end", "val_end", "test_end"]
    train, val, test = ends.values()
    assert all(values.dtype == np.int32 for values in ends.values())
    assert ((train >= 0) & (train <= val) & (val <= test)).all()
    np.testing.assert_array_equal(test, COUNTS)


@pytest.mark.parametrize("method", SPLITS)
def test_a_block_without_users_has_no_ends(method):
    none = np.array([], dtype=np.int64)
    ends = split_ends(method, Sequences(none, none, none.astype(np.int8)))
    assert all(len(values) == 0 for values in ends.values())


def test_leave_one_out_holds_out_two_items_of_users_with_three():
    ends = split_ends("leave_one_out", Sequences(STARTS, COUNTS, None))
    assert {name: values.tolist() for name, values in ends.items()} == {
        "train_end": [1, 2, 1, 3],
        "val_end": [1, 2, 2, 4],
        "test_end": [1, 2, 3, 5],
    }


def test_a_given_split_is_kept():
    ends = split_ends("given", Sequences(STARTS, COUNTS, GIVEN))
    assert ends["train_end"].tolist() == [1, 2, 1, 2]
    assert ends["val_end"].tolist() == [1, 2, 2, 4]
