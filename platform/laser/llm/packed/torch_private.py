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
