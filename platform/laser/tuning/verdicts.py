"""Tells the workers of a trial, after each epoch, that the scheduler lets the trial go on.

Ray Train's workers do not wait for Ray Tune. Left alone, the workers of a trial that ASHA stops train on until the stop
reaches them: by one epoch or two, as the machine's load has it. The trial's record would depend on that.
"""

import asyncio
from collections.abc import Callable
from functools import partial

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class Board:
    """Holds how far each trial may go. All callers share one event loop."""

    def __init__(self) -> None:
        self._epochs: dict[str, int] = {}
        self._changed = asyncio.Condition()

    async def let_go_on(self, trial_id: str, epoch: int) -> None:
        """Note that a trial may go on after this epoch."""
        async with self._changed:
            self._epochs[trial_id] = epoch
            self._changed.notify_all()

    async def wait(self, trial_id: str, epoch: int) -> None:
        """Return as soon as a trial may go on after this epoch."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._epochs.get(trial_id, -1) >= epoch)


class Verdicts:
    """A sweep's board, in an actor beside the sweep's own process. It pickles, and ends with that process."""

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._board = ray.remote(num_cpus=0)(Board).options(scheduling_strategy=here).remote()

    def let_go_on(self, trial_id: str, epoch: int) -> None:
        """Let a trial go on after this epoch. Called in the sweep's process, once the scheduler has decided."""
        self._board.let_go_on.remote(trial_id, epoch)

    def wait(self, trial_id: str, epoch: int) -> None:
        """Wait until a trial may go on after this epoch. The workers of a stopped trial wait until they are ended."""
        ray.get(self._board.wait.remote(trial_id, epoch))

    def waits_of(self, trial_id: str) -> Callable[[int], None]:
        """Return `wait` of one trial."""
        return partial(self.wait, trial_id)
