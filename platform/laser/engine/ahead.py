"""Batches made ahead: while a GPU computes, a thread makes the next ones and sends them.

They go from pinned memory on a stream of their own, so the GPU waits neither for numpy nor for a copy. A CPU would do
both with the same cores, so there each batch is made when it is wanted.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from laser.models.batch import each_tensor
from laser.models.captured import CAPTURING

AHEAD = 2
"""Batches that a GPU has ahead: one that arrives, and one that is made."""

Key = TypeVar("Key")
Made = TypeVar("Made")


@contextmanager
def made_ahead(
    make: Callable[[Key], Made], keys: Iterable[Key], device: torch.device, ahead: int | None = None
) -> Iterator[Iterator[Made]]:
    """Give what `make` returns for each key, in their order.

    An error of `make` is raised where its result would be taken. Leaving the context ends the thread.

    Args:
        make: makes tensors on the device, in dataclasses, tuples and lists. It draws no random numbers of torch.
        keys: what to make them from.
        device: the one that reads them.
        ahead: how many to make before they are wanted; None means `AHEAD` on a GPU, else none.
    """
    if ahead is None:
        ahead = AHEAD if device.type == "cuda" else 0
    if not ahead:
        yield map(make, keys)
        return
    make, take = _on_a_stream(make, device) if device.type == "cuda" else (make, lambda made: made)
    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
    try:
        yield map(take, _results(pool, make, keys, ahead))
    finally:
        pool.shutdown(cancel_futures=True)


def _results(pool: ThreadPoolExecutor, make: Callable[[Key], Made], keys: Iterable[Key], ahead: int) -> Iterator[Made]:
    waiting: deque[Future[Made]] = deque()
    for key in keys:
        waiting.append(pool.submit(make, key))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@lru_cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Return one stream for all batches: memory that was taken on a stream is kept for that stream."""
    return torch.cuda.Stream(device)


def _on_a_stream(make: Callable, device: torch.device) -> tuple[Callable, Callable]:
    """Return `make` on a stream of its own, and what lets the current stream use its results."""
    stream = _stream(device)

    def make_there(key: Key) -> tuple[object, torch.cuda.Event]:
        with CAPTURING, torch.cuda.stream(stream):
            return make(key), stream.record_event()

    def take(made: tuple[object, torch.cuda.Event]) -> object:
        parts, event = made
        current = torch.cuda.current_stream(device)
        current.wait_event(event)

        def keep(tensor: Tensor) -> Tensor:
            tensor.record_stream(current)  # else its memory may be filled anew while the current stream reads it
            return tensor

        return each_tensor(parts, keep)

    return make_there, take
