"""The paired bootstrap against enumeration by hand, and on systems that do and do not differ."""

from itertools import product

import numpy as np
import pytest

from laser.errors import UserError
from laser.evaluation.significance import compare, compare_seeds
from laser.evaluation.user_ranks import UserRanks


def table(ranks: list[int] | np.ndarray, users: list[int] | None = None) -> UserRanks:
    values = np.asarray(ranks, dtype=np.int64)
    ids = np.arange(len(values), dtype=np.int32) if users is None else np.array(users, dtype=np.int32)
    return UserRanks(ids, ids + 100, values, values)


def test_three_users_by_hand():
    """Differences of reciprocal ranks 1, 1/2, 0: each of the 27 resamples is as likely."""
    found = compare(table([1, 1, 2]), table([10**12, 2, 2]), num_resamples=40_000)["mrr"]
    differences = np.array([1, 0.5, 0.0])
    assert (found.ours, found.theirs) == pytest.approx((2.5 / 3, 1 / 3), abs=1e-9)
    assert found.difference == pytest.approx(0.5, abs=1e-9)
    assert found.effect_size == pytest.approx(0.5 / 0.5, abs=1e-6)  # their standard deviation is 1/2
    means = [differences[list(drawn)].mean() for drawn in product(range(3), repeat=3)]
    # As far from 0.5 as 0.5 is: three times the first user, or three times the last.
    assert sum(abs(mean - 0.5) >= 0.5 - 1e-9 for mean in means) == 2
    assert found.p_value == pytest.approx(2 / 27, abs=0.005)  # standard error 0.0013
    assert (found.low, found.high) == pytest.approx((0.0, 1.0), abs=1e-6)  # 1/27 of the draws lie at either end


def test_ndcg_and_recall_of_two_users_by_hand():
    found = compare(table([1, 11]), table([3, 10]), num_resamples=100)
    assert found["recall@10"].difference == pytest.approx(-0.5)
    assert found["ndcg@10"].difference == pytest.approx((0.5 - 0.2890648263178879) / 2)
    assert found["ndcg@10_masked"] == found["ndcg@10"]


def test_seeds_are_a_mean_for_each_user():
    """Reciprocal ranks: user 0 has 1 and 1/2, user 1 has 1/4 and 1/2; the other system 1/2 and 1/4 in its only seed."""
    seeds = table([1, 4]), table([2, 2], users=[1, 0])
    found = compare_seeds(seeds, [table([2, 4])], "mrr", num_resamples=100)
    assert (found.ours, found.theirs) == pytest.approx((9 / 16, 3 / 8))
    assert (found.low, found.high) == pytest.approx((1 / 8, 1 / 4))  # the two users' differences
    one = compare_seeds([seeds[0]], [table([2, 4])], "mrr", num_resamples=100)
    assert one == compare(seeds[0], table([2, 4]), num_resamples=100)["mrr"]
    with pytest.raises(UserError, match="the tables hold 2 and 3 users"):
        compare_seeds(seeds, [table([2, 4, 1])], "mrr")


def test_equal_systems_do_not_differ():
    found = compare(table([1, 5, 30]), table([1, 5, 30]), num_resamples=50)["ndcg@10"]
    assert (found.difference, found.low, found.high, found.p_value, found.effect_size) == (0, 0, 0, 1, 0)


def test_a_clear_difference_is_found_and_a_chance_one_is_not():
    random = np.random.default_rng(0)
    ranks = random.integers(1, 30, 2000)
    better = np.maximum(1, ranks - random.integers(0, 3, 2000))
    assert compare(table(better), table(ranks), 1000)["ndcg@10"].p_value == pytest.approx(1 / 1001)
    # Under the null hypothesis p is uniform: 40 comparisons of two random systems, of which 2 are expected below .05.
    p_values = [
        compare(table(random.integers(1, 30, 300)), table(random.integers(1, 30, 300)), 400, seed)["mrr"].p_value
        for seed in range(40)
    ]
    assert sum(p < 0.05 for p in p_values) <= 6 and 0.3 < np.mean(p_values) < 0.7


def test_the_seed_decides_and_the_order_of_users_does_not():
    ours, theirs = table([1, 4, 9, 20]), table([2, 3, 9, 7])
    again = table([20, 1, 9, 4], users=[3, 0, 2, 1])
    assert compare(ours, theirs, 500, seed=1) == compare(again, theirs, 500, seed=1)
    assert compare(ours, theirs, 500, seed=1) != compare(ours, theirs, 500, seed=2)


def test_other_users_are_refused():
    with pytest.raises(UserError, match="ranks: the tables hold 2 and 2 users"):
        compare(table([1, 2]), table([1, 2], users=[0, 5]))
