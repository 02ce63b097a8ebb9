"""Scaling, groups and the draw, on scores that can be worked out by hand."""

import numpy as np
import pytest

from laser.config.families.selection import DealrecGreedyUsers, DealrecUsers, MatchedUsers
from laser.scoring.choice import draw
from laser.scoring.coverage import (
    PRUNED,
    combined,
    draw_as_long,
    draw_from_groups,
    highest,
    min_max,
    score_groups,
)
from laser.scoring.description import group_sizes

SCORES = np.array([0.0, 0.1, 0.15, 0.3, 0.35, 0.36, 0.37, 0.9, 0.95, 1.0])


def random() -> np.random.Generator:
    return np.random.default_rng(7)


def test_groups_have_equal_width_and_the_highest_scores_are_left_out():
    assert score_groups(SCORES, 4, 0).tolist() == [0, 0, 0, 1, 1, 1, 1, 3, 3, 3]
    # Without the two highest the range ends at .9, so that the first group goes to .225 and the second to .45.
    assert score_groups(SCORES, 4, 2).tolist() == [0, 0, 0, 1, 1, 1, 1, 3, PRUNED, PRUNED]


@pytest.mark.parametrize(
    ("num_users", "by_group"),
    [
        (0, [0, 0, 0]),
        (1, [0, 1, 0]),  # 1 // 3 = 0 of the first of three, 1 // 2 = 0 of the next, and the largest gives it
        (4, [1, 2, 1]),
        (8, [2, 3, 3]),  # 8 // 3 = 2, 6 // 2 = 3, 3
        (9, [3, 3, 3]),
        (10, [3, 4, 3]),
        (11, [3, 4, 3]),
    ],
)
def test_the_smallest_group_comes_first_and_larger_ones_give_what_it_lacks(num_users, by_group):
    groups = score_groups(SCORES, 4, 0)
    chosen = draw_from_groups(groups, num_users, random())
    assert [int((groups[chosen] == group).sum()) for group in (0, 1, 3)] == by_group
    assert len(np.unique(chosen)) == len(chosen) and (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(draw_from_groups(groups, num_users, random()), chosen)


def test_one_group_and_equal_scores_are_a_random_sample():
    sample = np.sort(random().choice(10, 4, replace=False))
    for groups in (score_groups(SCORES, 1, 0), score_groups(np.ones(10), 50, 0)):
        np.testing.assert_array_equal(draw_from_groups(groups, 4, random()), sample)


def test_the_weight_of_the_effort():
    influence, effort = np.array([-3.0, 1.0, 5.0]), np.array([9.0, 5.0, 1.0])
    np.testing.assert_array_equal(combined(influence, effort, 0.0), [0, 0.5, 1])
    np.testing.assert_array_equal(combined(influence, None, 0.3), [0, 0.5, 1])
    np.testing.assert_allclose(combined(influence, effort, 0.5), [0.5, 0.75, 1])
    np.testing.assert_allclose(min_max(combined(influence, effort, 1e12)), min_max(effort), atol=1e-9)
    assert min_max(np.ones(3)).tolist() == [0, 0, 0]


def test_the_highest_and_those_as_long():
    assert highest(SCORES[::-1], 3).tolist() == [0, 1, 2]
    assert highest(np.ones(4), 2).tolist() == [0, 1]
    lengths = np.array([2, 3, 3, 2, 4, 3, 2, 9])
    drawn = draw_as_long(lengths, np.array([1, 2, 7, 0]), random())
    assert sorted(lengths[drawn].tolist()) == [2, 3, 3, 9] and len(np.unique(drawn)) == 4


def test_each_selection_draws_as_it_says():
    lengths = np.array([2, 2, 3, 3, 4, 4, 5, 5, 6, 6])
    sizes = {"fraction": 0.4}
    groups, greedy = draw(DealrecGreedyUsers(**sizes), SCORES, lengths, random())
    assert (greedy.tolist(), set(groups)) == ([6, 7, 8, 9], {0})
    groups, chosen = draw(DealrecUsers(**sizes, num_groups=4, hard_prune=0.25), SCORES, lengths, random())
    assert group_sizes(groups) == {"filled": 3, "smallest": 1, "largest": 4, "pruned": 2}
    assert 7 in chosen and not {8, 9} & set(chosen) and len(chosen) == 4
    _, matched = draw(MatchedUsers(**sizes, num_groups=4, hard_prune=0.25), SCORES, lengths, random())
    assert sorted(lengths[matched]) == sorted(lengths[chosen])
    # Where nearly all are wanted, fewer are left out.
    _, most = draw(DealrecUsers(num_users=9, hard_prune=0.9), SCORES, lengths, random())
    assert most.tolist() == list(range(9))
