"""Captured steps: what the LLM computes for a late prefix, replayed as a CUDA graph.

A late prefix passes few tokens of a history through the LLM (nine, for L = 8), so a GPU computes a kernel faster than
Python launches it, and a step of SmolLM2 has some two thousand. A CUDA graph launches all of them at once. It has fixed
shapes and buffers, into which torch copies what a batch brings. So the histories of a batch and the tokens of its
longest text are padded to one of four sizes for each doubling. Padding is masked and gets no gradient.

Shape suffixes: B histories, T tokens of the longest text, V virtual tokens of a history, H LLM width.
"""

from collections.abc import Callable
from threading import Lock
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from laser.llm.late_prefix import read_after
from laser.llm.loading import Decoder
from laser.llm.packed.decoder import PackedDecoder
from laser.llm.text_states import Places, TextStates

CAPTURING = Lock()
"""Held while a graph is captured. No other thread may copy to the GPU or take memory there meanwhile."""

Computation = Callable[..., Tensor]
"""Takes tensors of fixed shapes, the first of which gets a gradient, and returns hidden_BH."""


class CapturedReading:
    """`read_after` with one graph for each shape, where rows of text stay in place and a gradient is wanted.

    A graph's memory serves all others too. So a pass must be followed by its backward pass before the next one begins,
    as in a step.

    Args:
        capture: makes a computation with inputs of these shapes faster; by default it captures a CUDA graph.
    """

    def __init__(self, capture: "Callable[[Computation, tuple[Tensor, ...]], Computation] | None" = None) -> None:
        self.capture = _graphed() if capture is None else capture
        self.computations: dict[tuple[int, ...], Computation] = {}

    def __call__(self, llm: Decoder, virtual_BVH: Tensor, text: TextStates) -> Tensor:
        """Return the final hidden state of each history's last virtual token, hidden_BH."""
        wants_gradient = torch.is_grad_enabled() and virtual_BVH.requires_grad
        if not (text.resident and wants_gradient and isinstance(llm, PackedDecoder) and not llm.recompute):
            return read_after(llm, virtual_BVH, text)
        places = padded_places(text.places)
        distances = () if places.distance_BT is None else (places.distance_BT,)
        inputs = (_longer(virtual_BVH, len(places.length_B)), places.length_B, places.row_BT, *distances)
        key = (text.states[0].data_ptr(), *virtual_BVH.shape[1:], *places.row_BT.shape, len(distances))
        if key not in self.computations:
            self.computations[key] = self._computation(llm, text, inputs)
        return self.computations[key](*inputs)[: len(virtual_BVH)].clone()  # the next replay overwrites it

    def _computation(self, llm: Decoder, text: TextStates, inputs: tuple[Tensor, ...]) -> Computation:
        def compute(virtual_BVH: Tensor, length_B: Tensor, row_BT: Tensor, *distances: Tensor) -> Tensor:
            places = Places(row_BT, distances[0] if distances else None, length_B)
            return read_after(llm, virtual_BVH, TextStates(text.states, places))

        buffers = tuple(part.detach().clone().requires_grad_(part.requires_grad) for part in inputs)
        with CAPTURING:
            return self.capture(compute, buffers)


def _graphed() -> Callable[[Computation, tuple[Tensor, ...]], Computation]:
    pool = torch.cuda.graph_pool_handle()

    def capture(compute: Computation, buffers: tuple[Tensor, ...]) -> Computation:
        return cast(Computation, torch.cuda.make_graphed_callables(compute, buffers, pool=pool))

    return capture


def padded_places(places: Places) -> Places:
    """Return places of one of few shapes; histories that are added read one row."""
    batch, longest = places.row_BT.shape
    histories, room = padded_size(batch), padded_size(longest) - longest
    row_BT, distance_BT = (
        None if part_BT is None else _longer(F.pad(part_BT, (0, room)), histories)
        for part_BT in (places.row_BT, places.distance_BT)
    )
    assert row_BT is not None
    return Places(row_BT, distance_BT, _longer(places.length_B, histories, 1))


def padded_size(number: int) -> int:
    """Return the next of four sizes for each doubling: at most a quarter more, an eighth on average."""
    step = max(1, (1 << (number - 1).bit_length()) // 8)
    return -(-number // step) * step


def _longer(x_B: Tensor, histories: int, value: int = 0) -> Tensor:
    """Pad the first dimension to so many rows."""
    rest = (0, 0) * (x_B.dim() - 1)
    return F.pad(x_B, (*rest, 0, histories - len(x_B)), value=value)
