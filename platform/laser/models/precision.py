"""In which precision products of float32 matrices are computed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def products_in(dtype: torch.dtype) -> Iterator[None]:
    """With bf16, round the factors of float32 products to it; sums stay in float32. Nothing else changes.

    A CPU that multiplies bf16 natively takes about a third of the time then. A GPU may take TF32, which is more exact.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if dtype == torch.bfloat16 else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
