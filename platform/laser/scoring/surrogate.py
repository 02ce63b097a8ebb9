"""The gradients and Hessian products of a surrogate recommender, for one of its weights (arXiv 2401.17197, Eq. 4-11).

A sample is a user. Its loss is the mean over the next items of its training sequence, in evaluation mode. As in the
released code, the weight is the output projection of the last attention block. We deviate in the loss: the softmax
runs over the whole catalogue, where the code draws new random negatives at every call.

Shape suffixes: B users of a batch, U all users, N items of a sequence, C recommender width, P = C · C.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from laser.data.batches import pad_right
from laser.families.sasrec import SASRec

BATCH_SCORES = 2**24
"""Scores of a batch, which has at least one user: 64 MiB in float32."""

Sequences = Sequence[NDArray[np.int32]]


class Gradients(NamedTuple):
    """What the gradients of many users come to."""

    mean_P: Tensor
    """The mean of the users' gradients."""
    mean_norm: float
    """The mean of their norms. At a minimum of the mean loss it stays, and the norm of the mean gradient is 0."""


class Surrogate:
    """A trained SASRec, looked at as a function of one weight.

    Args:
        model: is put into evaluation mode; its other weights are frozen.
    """

    def __init__(self, model: SASRec) -> None:
        self.model = model.eval().requires_grad_(False)
        self.layer: nn.Module = model.decoder.h[-1].attn.c_proj
        self.weight: nn.Parameter = self.layer.weight.requires_grad_(True)  # (C, C), multiplied from the right

    def gradients(self, sequences: Sequences, last_only: bool = False) -> Gradients:
        """Return mean and mean norm of the users' gradients.

        Args:
            sequences: each user's items, at least 2.
            last_only: the loss is that of the last item alone.
        """
        total_P, norms = torch.zeros_like(self.weight).flatten(), 0.0
        for batch in self._batches(sequences):
            inputs_BNC, slopes_BNC = self._layer_gradients(batch, last_only)
            gradients_BP = torch.einsum("bnc,bnd->bcd", inputs_BNC, slopes_BNC).flatten(1)
            total_P += gradients_BP.sum(dim=0)
            norms += float(gradients_BP.norm(dim=1).sum())
        return Gradients(total_P / len(sequences), norms / len(sequences))

    def dot_gradients(self, sequences: Sequences, vector_P: Tensor) -> NDArray[np.float64]:
        """Return the product of each user's gradient with a vector: dots_U."""
        matrix_CC, dots = vector_P.view_as(self.weight), []
        for batch in self._batches(sequences):
            inputs_BNC, slopes_BNC = self._layer_gradients(batch, last_only=False)
            dots.append(((inputs_BNC @ matrix_CC) * slopes_BNC).sum(dim=(1, 2)).double().numpy())
        return np.concatenate(dots)

    def hessian_product(self, sequences: Sequences, vector_P: Tensor) -> Tensor:
        """Return the product of the Hessian of the users' mean loss with a vector."""
        direction_CC, total_CC = vector_P.view_as(self.weight), torch.zeros_like(self.weight)
        for batch in self._batches(sequences):
            losses_B = self.model.losses(*self._padded(batch))
            (gradient_CC,) = torch.autograd.grad(losses_B.sum(), self.weight, create_graph=True)
            total_CC += torch.autograd.grad((gradient_CC * direction_CC).sum(), self.weight)[0]
        return total_CC.flatten() / len(sequences)

    def _layer_gradients(self, batch: Sequences, last_only: bool) -> tuple[Tensor, Tensor]:
        """Return what enters the layer and the gradient of each user's own loss at what leaves it.

        The gradient of a user with respect to the weight is the sum over the positions of their outer products.
        """
        seen: list[Tensor] = []

        def watch(layer: nn.Module, inputs: tuple[Tensor, ...], output_BNC: Tensor) -> Tensor:
            seen.extend((inputs[0].detach(), output_BNC.detach().requires_grad_()))
            return seen[1]

        handle = self.layer.register_forward_hook(watch)
        try:
            losses_B = self.model.losses(*self._padded(batch), last_only=last_only)
        finally:
            handle.remove()
        (slopes_BNC,) = torch.autograd.grad(losses_B.sum(), seen[1])
        return seen[0], slopes_BNC

    def _padded(self, batch: Sequences) -> tuple[Tensor, Tensor]:
        item_ids_BN, mask_BN = pad_right(batch, 0)
        return torch.from_numpy(item_ids_BN), torch.from_numpy(mask_BN)

    def _batches(self, sequences: Sequences) -> Iterator[Sequences]:
        longest = max(len(sequence) for sequence in sequences)
        size = max(1, BATCH_SCORES // (longest * self.model.num_items))
        for start in range(0, len(sequences), size):
            yield sequences[start : start + size]
