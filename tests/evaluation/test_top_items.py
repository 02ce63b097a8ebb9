"""Lists by tiles of products against a full sort of exact scores, ties by id; and lists of given scores."""

import numpy as np
import pytest
import torch
from scipy.sparse import random_array
from torch import Tensor

from laser.evaluation import ranking, top_items
from laser.evaluation.pair_scores import PairScores
from laser.evaluation.top_items import top_scores

SIZE = 10


def sorted_lists(scores_BI: Tensor, size: int = SIZE) -> Tensor:
    """By definition: each row sorted whole, best first, of equals the lowest id first."""
    lists = [sorted(range(len(row)), key=lambda item, row=row: (-row[item], item)) for row in scores_BI.tolist()]
    return torch.tensor(lists)[:, :size]


def exact_scores(representation_BH: Tensor, items_IH: Tensor) -> Tensor:
    return (representation_BH.double() @ items_IH.double().T).float()


@pytest.mark.parametrize(("tile_scores", "tile_users"), [(2**20, 256), (640, 64), (77, 7), (29, 1)])
def test_lists_equal_a_full_sort_whatever_the_tile(case, tile_scores, tile_users, monkeypatch):
    monkeypatch.setattr(top_items, "TILE_SCORES", tile_scores)
    monkeypatch.setattr(top_items, "TILE_USERS", tile_users)
    monkeypatch.setattr(ranking, "PAIR_ELEMENTS", 500)
    representation_BH, items_IH, _ = case
    lists_BK = top_items.top_items(representation_BH, items_IH, SIZE)
    assert torch.equal(lists_BK, sorted_lists(exact_scores(representation_BH, items_IH)))


def test_the_fast_product_alone_would_order_nearly_equal_items_wrongly(make_case, make_hard):
    """Without this the cases above would not show that anything is scored again."""
    representation_BH, items_IH, _ = make_hard(make_case(23, 301, 64))
    fast_BK = top_scores(representation_BH @ items_IH.T, SIZE)
    assert not torch.equal(fast_BK, sorted_lists(exact_scores(representation_BH, items_IH)))


@pytest.mark.parametrize("widened_elements", [1, 300, 2**22])
def test_bfloat16_items_are_listed_as_what_they_hold(widened_elements, monkeypatch, make_case):
    monkeypatch.setattr(ranking, "WIDENED_ELEMENTS", widened_elements)
    monkeypatch.setattr(top_items, "WIDENED_ELEMENTS", widened_elements)
    representation_BH, items_IH, _ = make_case(31, 700, 24)
    rounded_IH = items_IH.bfloat16()
    lists_BK = top_items.top_items(representation_BH, rounded_IH, SIZE)
    assert torch.equal(lists_BK, sorted_lists(exact_scores(representation_BH, rounded_IH)))
    rounded_IH[699, 23] = torch.nan
    with pytest.raises(FloatingPointError):
        top_items.top_items(representation_BH, rounded_IH, SIZE)


@pytest.mark.parametrize("bias", [-0.5, 0.25, 3.0, -np.inf])
@pytest.mark.parametrize("scale", [None, 0.5, 300.0])
def test_pairs_move_their_own_items_alone(large_case, bias, scale, monkeypatch):
    """A history bias and counted scores, of the products' magnitude and far above it."""
    monkeypatch.setattr(top_items, "TILE_SCORES", 640)
    monkeypatch.setattr(top_items, "TILE_USERS", 7)
    representation_BH, items_IH, _ = large_case
    num_users, num_items = len(representation_BH), len(items_IH)
    random, counted = np.random.default_rng(0), None
    histories = [random.integers(0, num_items, random.integers(1, 40)).astype(np.int32) for _ in representation_BH]
    histories[1] = np.repeat(histories[1][:3], 2)  # a repeated item gets the bias once
    added_BI = torch.zeros(num_users, num_items)
    if scale is not None:
        counted = random_array((num_users, num_items), density=0.05, rng=random, format="csr")
        counted = (counted * scale).astype(np.float32)
        added_BI += torch.from_numpy(counted.toarray())
    for row, history in enumerate(histories):
        added_BI[row, np.unique(history)] += bias
    pairs = PairScores.of(histories, num_items, representation_BH.device, counted)
    lists_BK = top_items.top_items(representation_BH, items_IH, SIZE, pairs, bias)
    assert torch.equal(lists_BK, sorted_lists(exact_scores(representation_BH, items_IH) + added_BI))


def test_lists_do_not_depend_on_how_users_are_shared_out(make_case, make_hard):
    representation_BH, items_IH, _ = make_hard(make_case(50, 2000, 96))
    whole_BK = top_items.top_items(representation_BH, items_IH, SIZE)
    for size in (1, 7, 32):
        parts = [top_items.top_items(part_BH, items_IH, SIZE) for part_BH in representation_BH.split(size)]
        assert torch.equal(torch.cat(parts), whole_BK)


def test_a_list_agrees_with_the_rank_of_each_item_in_it(make_case):
    """The n-th item of a list without ties has rank n: two ways to the same order."""
    representation_BH, items_IH, _ = make_case(20, 400, 16)
    lists_BK = top_items.top_items(representation_BH, items_IH, SIZE)
    for place in range(SIZE):
        assert ranking.catalogue_ranks(representation_BH, items_IH, lists_BK[:, place]).tolist() == [place + 1] * 20


def test_lists_of_given_scores_are_a_full_sort_too():
    scores_BI = torch.randint(-3, 4, (40, 60), generator=torch.Generator().manual_seed(0)).float()
    scores_BI[:3, 5:] = -torch.inf  # fewer candidates than places: what is excluded follows by id
    assert torch.equal(top_scores(scores_BI, SIZE), sorted_lists(scores_BI))
    assert torch.equal(top_scores(scores_BI.bfloat16(), SIZE), sorted_lists(scores_BI))
    assert torch.equal(top_scores(torch.zeros(2, 4), SIZE), torch.arange(4).expand(2, -1))
