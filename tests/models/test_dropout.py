import pytest
import torch

from laser.models.dropout import Dropout
from laser.models.precision import products_in


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.1, 0.2, 0.5, 0.9])
def test_the_wanted_share_is_dropped_and_the_rest_is_scaled(probability, dtype):
    torch.manual_seed(0)
    dropout, given = Dropout(probability), torch.full((1001, 999), 3.0, dtype=dtype)  # no multiple of four
    dropped = dropout(given)
    assert dropped.dtype == dtype and float((dropped == 0).double().mean()) == pytest.approx(probability, abs=2e-3)
    kept = dropped[dropped != 0].float()
    torch.testing.assert_close(kept, torch.full_like(kept, 3 / (1 - probability)), rtol=1e-2, atol=0)
    assert not torch.equal(dropped, dropout(given))
    # measured: neighbours, which share a draw of 64 bits, agree as chance has it
    pairs = (dropped.flatten()[:-1] == 0) == (dropped.flatten()[1:] == 0)
    assert float(pairs.double().mean()) == pytest.approx(probability**2 + (1 - probability) ** 2, abs=4e-3)


def test_the_gradient_passes_where_the_element_was_kept():
    torch.manual_seed(0)
    given = torch.randn(40, 30, requires_grad=True)
    dropped = Dropout(0.3)(given)
    dropped.sum().backward()
    assert given.grad is not None
    torch.testing.assert_close(given.grad * given, dropped)
    torch.manual_seed(0)
    torch.randn(40, 30)
    torch.testing.assert_close(Dropout(0.3)(given.detach()), dropped)


@pytest.mark.parametrize("probability", [0.0, 1e-9, 1.0])
def test_the_ends_are_those_of_torch(probability):
    given = torch.randn(10, 10)
    assert torch.equal(Dropout(probability)(given), torch.nn.Dropout(round(probability))(given))
    assert torch.equal(Dropout(0.5).eval()(given), given)


def test_only_products_within_the_block_are_rounded():
    left, right = torch.randn(300, 400), torch.randn(400, 300)
    exact = left @ right
    with products_in(torch.float32):
        assert torch.equal(left @ right, exact)
    with products_in(torch.bfloat16):
        rounded = left @ right
    assert torch.equal(left @ right, exact) and rounded.dtype == torch.float32
    # measured, of values around 20: 0.2 with native bf16, else 0
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.4)
