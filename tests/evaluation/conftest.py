"""Users, items and targets on which an exact order is easily got wrong."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

Case = tuple[Tensor, Tensor, Tensor]
"""representation_BH, items_IH, targets_B."""


def random_case(num_users: int, num_items: int, width: int, seed: int = 0) -> Case:
    generator = torch.Generator().manual_seed(seed)
    representation_BH = F.normalize(torch.randn(num_users, width, generator=generator), dim=1)
    items_IH = F.normalize(torch.randn(num_items, width, generator=generator), dim=1)
    return representation_BH, items_IH, torch.randint(num_items, (num_users,), generator=generator)


def nearly_equal_items(case: Case) -> Case:
    """All items within a few last bits of one another: the matrix product alone orders them wrongly."""
    representation_BH, items_IH, targets_B = case
    return representation_BH, items_IH[:1] + 1e-7 * items_IH, targets_B


def coarse(case: Case) -> Case:
    """Rounded to bf16 and beyond, so that many scores tie."""
    representation_BH, items_IH, targets_B = case
    return *((4 * values).round().bfloat16().float() for values in (representation_BH, items_IH)), targets_B


CASES = {
    "one of each": random_case(1, 1, 1),
    "odd sizes": random_case(37, 503, 37),
    "wide": random_case(9, 501, 576),
    "ties": coarse(random_case(31, 700, 24)),
    "nearly equal": nearly_equal_items(random_case(23, 301, 64)),
    "collapsed": (torch.ones(5, 7), torch.ones(90, 7), torch.arange(5)),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """Each of the cases."""
    return CASES[request.param]


@pytest.fixture(params=[name for name in CASES if name != "one of each"])
def large_case(request: pytest.FixtureRequest) -> Case:
    """Those with more than one item."""
    return CASES[request.param]


@pytest.fixture(scope="session")
def make_case():
    """Makes random directions, and targets."""
    return random_case


@pytest.fixture(scope="session")
def make_hard():
    """Makes all items of a case nearly equal."""
    return nearly_equal_items


@pytest.fixture(scope="session")
def make_coarse():
    """Rounds a case, so that scores tie."""
    return coarse
