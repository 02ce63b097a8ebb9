"""Ranks against a sort done by hand; ties and NaN never help the model."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laser.evaluation import ranking
from laser.evaluation.ranking import ranks, ranks_without_histories


def test_ranks_of_distinct_scores_are_their_places_in_the_order():
    scores_BI = torch.tensor([[0.1, 0.9, 0.5, -2.0], [3.0, 1.0, 2.0, 0.0]])
    assert ranks(scores_BI, torch.tensor([2, 0])).tolist() == [2, 1]
    assert ranks(scores_BI, torch.tensor([3, 3])).tolist() == [4, 4]


def test_all_ties_count_against_the_model():
    scores_BI = torch.tensor([[1.0, 1.0, 0.0, 2.0]])
    assert ranks(scores_BI, torch.tensor([0])).tolist() == [3]
    assert ranks(scores_BI, torch.tensor([1])).tolist() == [3]


@pytest.mark.parametrize("value", [0.0, -torch.inf, torch.inf])
def test_a_constant_scorer_ranks_every_target_last(value):
    assert ranks(torch.full((5, 5), value), torch.arange(5)).tolist() == [5] * 5


def test_nan_scores_are_an_error():
    scores_BI = torch.zeros(3, 4)
    scores_BI[1, 2] = torch.nan
    with pytest.raises(FloatingPointError, match="1 of 3 rows"):
        ranks(scores_BI, torch.tensor([0, 0, 0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("block_scores", [100, 3 * 301 + 5, 2**18])
def test_rows_of_several_blocks_rank_as_one_row_does(dtype, block_scores, monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK_SCORES", block_scores)
    scores_BI = torch.randn(10, 301, generator=torch.Generator().manual_seed(0)).to(dtype)
    targets_B = torch.arange(0, 300, 30)
    expected = (scores_BI >= scores_BI.gather(1, targets_B[:, None])).sum(dim=1)
    assert torch.equal(ranks(scores_BI, targets_B), expected)
    scores_BI[9, 300] = torch.nan
    with pytest.raises(FloatingPointError, match="1 of 10 rows"):
        ranks(scores_BI, targets_B)


def test_masked_history_leaves_the_competition_and_a_masked_target_ranks_last():
    scores_BI = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.7, 0.6]])
    histories = [np.array([0, 1]), np.array([3]), np.array([], dtype=np.int32)]
    targets_B = torch.tensor([2, 3, 1])
    masked_B = ranks_without_histories(ranks(scores_BI, targets_B), scores_BI, targets_B, histories)
    assert masked_B.tolist() == [1, 4, 2]
    assert scores_BI[0].tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6]), "the caller's scores are left alone"


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=12), st.data())
def test_the_order_of_the_ids_decides_nothing(scores, data):
    target = data.draw(st.integers(0, len(scores) - 1))
    order = data.draw(st.permutations(range(len(scores))))
    plain = ranks(torch.tensor([scores], dtype=torch.float32), torch.tensor([target]))
    shuffled = ranks(
        torch.tensor([[scores[i] for i in order]], dtype=torch.float32), torch.tensor([order.index(target)])
    )
    assert plain.tolist() == shuffled.tolist()
    assert plain.item() == 1 + sum(score >= scores[target] for item, score in enumerate(scores) if item != target)
