"""Ranks by tiles of products against a full sort of exact scores: the last bit decides nothing that it should not."""

import numpy as np
import pytest
import torch
from scipy.sparse import random_array
from torch import Tensor

from laser.evaluation import ranking
from laser.evaluation.pair_scores import PairScores
from laser.evaluation.ranking import catalogue_ranks, ranks, ranks_without_histories, user_ranks


def sorted_ranks(representation_BH: Tensor, items_IH: Tensor, targets_B: Tensor) -> Tensor:
    """By definition: all scores in float64, rounded, each row sorted; the target is the last of those that tie."""
    scores_BI = (representation_BH.double() @ items_IH.double().T).float()
    wanted_B1 = scores_BI.gather(1, targets_B[:, None])
    ascending_BI = scores_BI.sort(dim=1).values
    return scores_BI.shape[1] - torch.searchsorted(ascending_BI, wanted_B1)[:, 0]


@pytest.mark.parametrize(("tile_scores", "tile_users"), [(2**20, 2048), (640, 64), (77, 7), (9, 2)])
def test_ranks_equal_a_full_sort_whatever_the_tile(case, tile_scores, tile_users, monkeypatch):
    monkeypatch.setattr(ranking, "TILE_SCORES", tile_scores)
    monkeypatch.setattr(ranking, "TILE_USERS", tile_users)
    monkeypatch.setattr(ranking, "PAIR_ELEMENTS", 500)
    assert torch.equal(catalogue_ranks(*case), sorted_ranks(*case))


@pytest.mark.parametrize("widened_elements", [1, 300, 2**22])
def test_bfloat16_items_rank_as_what_they_hold(widened_elements, monkeypatch, make_case):
    monkeypatch.setattr(ranking, "WIDENED_ELEMENTS", widened_elements)
    representation_BH, items_IH, targets_B = make_case(31, 700, 24)
    rounded_IH = items_IH.bfloat16()
    expected_B = sorted_ranks(representation_BH, rounded_IH, targets_B)
    assert torch.equal(catalogue_ranks(representation_BH, rounded_IH, targets_B), expected_B)
    rounded_IH[699, 23] = torch.nan
    with pytest.raises(FloatingPointError):
        catalogue_ranks(representation_BH, rounded_IH, targets_B)


def test_ranks_do_not_depend_on_how_users_are_shared_out(make_case, make_hard):
    representation_BH, items_IH, targets_B = make_hard(make_case(50, 2000, 96))
    whole_B = catalogue_ranks(representation_BH, items_IH, targets_B)
    for size in (1, 7, 32):
        parts = zip(representation_BH.split(size), targets_B.split(size), strict=True)
        assert torch.equal(torch.cat([catalogue_ranks(part, items_IH, targets) for part, targets in parts]), whole_B)


def test_equal_items_tie_wherever_they_stand(make_case):
    representation_BH, items_IH, _ = make_case(40, 333, 50)
    copies_IH = torch.cat([items_IH, items_IH.flip(0), items_IH])
    first_B, last_B = torch.arange(40), torch.arange(40) + 2 * 333
    expected_B = 3 * sorted_ranks(representation_BH, items_IH, first_B)
    assert torch.equal(catalogue_ranks(representation_BH, copies_IH, first_B), expected_B)
    assert torch.equal(catalogue_ranks(representation_BH, copies_IH, last_B), expected_B)


def test_parts_of_unlike_scales_leave_few_scores_in_doubt(make_case):
    cosine_BH, cosines_IH, targets_B = make_case(64, 3000, 64)
    counts_BH, counts_IH, _ = make_case(64, 3000, 96)
    representation_BH = torch.cat([cosine_BH, 1e-4 * counts_BH], dim=1)
    items_IH = torch.cat([cosines_IH, 1e4 * counts_IH], dim=1)
    error_B = ranking.error_bound(representation_BH, items_IH)
    wrong_BI = (representation_BH @ items_IH.T).double() - representation_BH.double() @ items_IH.double().T
    assert (wrong_BI.abs().amax(dim=1) <= error_B).all()
    whole_B = representation_BH.norm(dim=1) * items_IH.norm(dim=1).max() * 160 * 2.0**-24
    assert (100 * error_B < whole_B).all(), "one bound for all parts takes the largest part for all of them"
    assert torch.equal(
        catalogue_ranks(representation_BH, items_IH, targets_B), sorted_ranks(representation_BH, items_IH, targets_B)
    )


def test_a_user_without_direction_ranks_every_target_last(make_case):
    _, items_IH, targets_B = make_case(6, 400, 16)
    assert catalogue_ranks(torch.zeros(6, 16), items_IH, targets_B).tolist() == [400] * 6


def test_exact_scores_rank_as_given_scores_do(make_case, make_coarse):
    representation_BH, items_IH, targets_B = make_coarse(make_case(20, 500, 16))
    scores_BI = representation_BH @ items_IH.T  # small multiples of 1: exact in any order
    assert torch.equal(catalogue_ranks(representation_BH, items_IH, targets_B), ranks(scores_BI, targets_B))


def some_histories(targets_B: Tensor, num_items: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    histories = [random.integers(0, num_items, random.integers(1, 40)).astype(np.int32) for _ in targets_B]
    histories[0] = np.append(histories[0], targets_B[0].item())  # ranks last when masked
    histories[1] = np.repeat(histories[1][:3], 2)  # a repeated item leaves, or gets a bias, once
    histories[2] = histories[2][:0]
    return histories


@pytest.mark.parametrize("bias", [0.0, -0.5, 0.25])
@pytest.mark.parametrize("scale", [None, 0.5, 300.0])
def test_ranks_with_pairs_equal_those_of_scores_that_hold_them(large_case, bias, scale, monkeypatch):
    """A history bias and counted scores, of the products' magnitude and far above it."""
    monkeypatch.setattr(ranking, "PAIR_ELEMENTS", 500)
    representation_BH, items_IH, targets_B = large_case
    num_users, num_items = len(targets_B), len(items_IH)
    histories, counted = some_histories(targets_B, num_items), None
    scores_BI = (representation_BH.double() @ items_IH.double().T).float()
    added_BI = torch.zeros_like(scores_BI)
    if scale is not None:
        counted = random_array((num_users, num_items), density=0.05, rng=np.random.default_rng(1), format="csr")
        counted = (counted * scale).astype(np.float32)
        added_BI += torch.from_numpy(counted.toarray())
    for row, history in enumerate(histories):
        added_BI[row, np.unique(history)] += bias
    scores_BI += added_BI
    expected_B = ranks(scores_BI, targets_B)
    expected_masked_B = ranks_without_histories(expected_B, scores_BI, targets_B, histories)
    pairs = PairScores.of(histories, num_items, targets_B.device, counted)
    ranks_B, masked_B = user_ranks(representation_BH, items_IH, targets_B, pairs, bias)
    assert torch.equal(ranks_B, expected_B) and torch.equal(masked_B, expected_masked_B)
    for row, history in enumerate(histories):
        scores_BI[row, history] = -torch.inf
    assert torch.equal(masked_B, ranks(scores_BI, targets_B))
    assert masked_B[0] == num_items and masked_B[2] == ranks_B[2] and (bias < 0 or (masked_B[1:] < ranks_B[1:]).any())
    changed = not torch.equal(ranks_B, catalogue_ranks(representation_BH, items_IH, targets_B))
    assert changed == bool(bias or scale)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_an_error(value, make_case):
    representation_BH, items_IH, targets_B = make_case(4, 30, 8)
    representation_BH[2, 3] = value
    with pytest.raises(FloatingPointError, match="1 of 4 users"):
        catalogue_ranks(representation_BH, items_IH, targets_B)
    representation_BH[2, 3] = 0.0
    items_IH[29, 0] = value
    with pytest.raises(FloatingPointError, match="4 of 4 users"):
        catalogue_ranks(representation_BH, items_IH, targets_B)


def test_no_gradient_is_kept(make_case):
    representation_BH, items_IH, targets_B = make_case(4, 30, 8)
    assert not catalogue_ranks(representation_BH.requires_grad_(), items_IH, targets_B).requires_grad
