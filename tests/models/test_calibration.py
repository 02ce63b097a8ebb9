"""Tests that the weights of a score are found by its ranking."""

import numpy as np
import torch

from laser.models.calibration import MOST_SCORES, Scores, sampled_users


def test_each_part_gets_the_weight_that_ranks_best():
    """One block ranks half of the users, the cosine the other half; the second block is noise, the history misleads."""
    random = torch.Generator().manual_seed(0)
    num_users, num_items = 60, 200
    targets_S = torch.randint(num_items, (num_users,), generator=random)
    own_S = (targets_S + 1) % num_items
    blocks = [100 * torch.rand(num_users, num_items, generator=random) for _ in range(2)]
    cosine_SI = torch.rand(num_users, num_items, generator=random)
    rows = torch.arange(num_users)
    blocks[0][rows[:30], targets_S[:30]] += 150
    cosine_SI[rows[30:], targets_S[30:]] += 1.5
    cosine_SI[rows, own_S] += 4
    scores = Scores(blocks, cosine_SI, (rows, own_S), targets_S)
    (first, second, cosine), bias = scores.best_weights(1.0, with_bias=True)
    assert 20 < cosine / first < 500 and second < first / 2 and bias < -1
    assert scores.ndcg((first, second, cosine), bias) > 0.9  # each alone: about a half
    assert scores.best_weights(1.0, with_bias=False)[1] == 0.0


def test_a_misleading_cosine_keeps_a_little_weight_so_that_a_gradient_reaches_the_tokens():
    scores_SI = torch.eye(8)
    scores = Scores([scores_SI], -scores_SI, (torch.zeros(0, dtype=torch.int64),) * 2, torch.arange(8))
    assert scores.best_weights(1.0, with_bias=False)[0][1] == 2**-8


def test_a_large_catalogue_is_tried_on_fewer_users():
    rows = sampled_users(9000, 10, np.random.default_rng(0))
    assert len(rows) == 8192 and (np.diff(rows) > 0).all()
    assert len(sampled_users(9000, MOST_SCORES // 3, np.random.default_rng(0))) == 3
