"""Tests of many systems: against enumeration, other libraries, hand arithmetic, and simulated systems."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import permutation_test

from laser.evaluation.many import benjamini_hochberg, compare_all, detectable_difference, holm, intervals, randomisation
from laser.evaluation.significance import compare
from laser.evaluation.user_ranks import UserRanks

RANDOM = np.random.default_rng(0)


def test_the_randomisation_test_equals_all_signs_of_a_few_users():
    differences_E = np.array([0.5, 0.25, -0.1, 0.4, 0.0, 0.3])
    means = [np.mean(signs * differences_E) for signs in product((-1.0, 1.0), repeat=6)]
    exact = np.mean(np.abs(means) >= abs(differences_E.mean()) - 1e-12)
    assert randomisation(differences_E[:, None], 40_000)[0] == pytest.approx(exact, abs=0.006)  # standard error .0015


def test_the_randomisation_test_equals_scipys():
    differences_E = RANDOM.normal(0.15, 1, 200)
    theirs = permutation_test(
        (differences_E,), np.mean, permutation_type="samples", n_resamples=20_000, random_state=np.random.default_rng(1)
    )
    assert randomisation(differences_E[:, None], 20_000)[0] == pytest.approx(theirs.pvalue, abs=0.01)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_benjamini_and_hochberg_by_hand():
    # .01 * 4 / 2 = .02, .005 * 4 / 1 = .02, .03 * 4 / 3 = .04, .04 * 4 / 4 = .04
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.02, 0.04, 0.04, 0.02])


def test_the_detectable_difference_by_hand():
    # (1.959964 + 0.841621) * 0.3 / sqrt(900)
    assert float(detectable_difference(0.3, 900)) == pytest.approx(0.02801585, abs=1e-7)


def test_a_difference_that_is_called_detectable_is_found_four_times_in_five():
    size, std = 400, 1.0
    difference = float(detectable_difference(std, size))
    found = [randomisation(RANDOM.normal(difference, std, (size, 1)), 400, seed)[0] < 0.05 for seed in range(120)]
    assert 0.68 < np.mean(found) < 0.92  # standard error .037


def test_of_systems_that_are_alike_none_is_told_apart_and_a_better_one_is():
    values_SE = RANDOM.random((6, 500)) < 0.2
    values_SE = np.vstack([values_SE, RANDOM.random(500) < 0.4]).astype(float)
    pairs = compare_all(values_SE, 1000)
    assert len(pairs) == 21
    apart = {(pair.first, pair.second) for pair in pairs if pair.holm < 0.05}
    assert apart == {(other, 6) for other in range(6)}
    assert all(pair.p_value <= pair.false_discovery <= pair.holm for pair in pairs)
    assert all(pair.low <= pair.difference <= pair.high for pair in pairs)


def test_a_pair_agrees_with_the_paired_bootstrap_of_two_systems():
    ours, theirs = RANDOM.integers(1, 40, (2, 400))
    users = np.arange(400, dtype=np.int32)
    two = compare(UserRanks(users, users, ours, ours), UserRanks(users, users, theirs, theirs), 2000)["mrr"]
    pair = compare_all(np.stack([1 / ours, 1 / theirs]), 2000)[0]
    assert (pair.difference, pair.low, pair.high) == pytest.approx((two.difference, two.low, two.high))
    assert pair.effect_size == pytest.approx(two.effect_size)
    assert pair.p_value == pytest.approx(two.p_value, abs=0.04)


def test_intervals_hold_the_mean_and_one_system_has_no_pairs():
    values_SE = RANDOM.random((1, 300))
    [(low, high)] = intervals(values_SE, 1000, 0)
    assert low < values_SE.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values_SE.std() / np.sqrt(300), rel=0.15)
    assert compare_all(values_SE, 10) == []
