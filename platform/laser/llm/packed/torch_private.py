"""Calls into torch that its documentation does not promise, in one place.

Checked on torch 2.13.0. Another version may drop or rename them, so read this file when the pin changes.
`tests/llm/packed/test_decoder.py` compares each call with torch's public functions.
"""

import torch
from torch import Tensor


def softmax_backward(gradient: Tensor, probability: Tensor) -> Tensor:
    """Return the gradient of the scores from that of `scores.softmax(dim=-1)`.

    Checked on torch 2.13.0. The public way is to run the softmax again under autograd, which reads and writes the
    scores twice more; the backward pass has the probabilities already.
    """
    return torch._softmax_backward_data(gradient, probability, -1, probability.dtype)


def compile_for_row_shape(x: Tensor) -> None:
    """Let functions that are compiled for any shape know the sizes of all dimensions of this tensor but the first.

    Checked on torch 2.13.0, where `mark_static` is in a module of torch with a leading underscore. Without the sizes
    the loop of `laser.llm.packed.fused.look_up` is cut into halves of unknown width and takes 1.7 times as long.
    """
    torch._dynamo.mark_static(x, list(range(1, x.dim())))
