"""Batches that are made ahead: their order, their errors, and how they end."""

import threading

import pytest
import torch

from laser.engine.ahead import made_ahead

CPU = torch.device("cpu")


def waiting_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.parametrize("ahead", [None, 0, 1, 3, 100])
def test_what_is_made_ahead_comes_in_order(ahead: int | None):
    made: list[int] = []

    def make(key: int) -> list[torch.Tensor]:
        made.append(key)
        return [torch.full((2,), key)]

    with made_ahead(make, range(20), CPU, ahead) as results:
        taken = []
        for (tensor,) in results:
            taken.append(int(tensor[0]))
            assert len(made) <= len(taken) + (ahead or 0)
    assert taken == made == list(range(20))
    assert not waiting_threads()


@pytest.mark.parametrize("ahead", [0, 2])
def test_an_error_is_raised_where_its_result_is_taken(ahead: int):
    def make(key: int) -> int:
        if key == 3:
            raise ValueError("the fourth")
        return key

    taken: list[int] = []
    with pytest.raises(ValueError, match="the fourth"), made_ahead(make, range(9), CPU, ahead) as results:
        for result in results:
            taken.append(result)  # one by one: what came before the error has been taken
    assert taken == [0, 1, 2]
    assert not waiting_threads()


def test_an_interrupt_ends_it():
    made: list[int] = []
    with pytest.raises(KeyboardInterrupt), made_ahead(made.append, range(1000), CPU, 2) as results:
        next(results)
        raise KeyboardInterrupt
    assert len(made) <= 3
    assert not waiting_threads()
