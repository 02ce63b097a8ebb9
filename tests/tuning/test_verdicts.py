"""Tests that workers train on after an epoch only when the scheduler has decided so."""

import asyncio
from types import SimpleNamespace

from laser.config.schema import Experiment
from laser.tracking.interface import EPOCH
from laser.tuning.search import _RecordKeeper
from laser.tuning.sweep import Sweep
from laser.tuning.table import SweepTable
from laser.tuning.trial import METRIC
from laser.tuning.verdicts import Board


def test_a_worker_waits_for_its_own_trial_and_epoch():
    async def wait() -> list[bool]:
        board = Board()
        waiting = asyncio.ensure_future(board.wait("one", 2))
        seen = []
        for trial, epoch in (("other", 2), ("one", 1), ("one", 2)):
            await board.let_go_on(trial, epoch)
            await asyncio.wait([waiting], timeout=0.05)
            seen.append(waiting.done())
        await board.wait("one", 1)  # an earlier epoch is reported again, after a failure
        return seen

    assert asyncio.run(wait()) == [False, False, True]


def test_a_stopped_trial_is_not_let_go_on(tmp_path):
    let_go_on: list[tuple[str, int]] = []
    table = SweepTable(Experiment(), 1)
    keeper = _RecordKeeper(Sweep(tmp_path), None, table, lambda trial_id, epoch: let_go_on.append((trial_id, epoch)))
    trial = SimpleNamespace(trial_id="7", config={"overrides": '{"training.seed": 1}'})
    keeper.on_trial_start(0, [trial], trial)
    for epoch, done in ((0, False), (1, False), (2, True)):
        keeper.on_trial_result(0, [trial], trial, {EPOCH: epoch, METRIC: 0.1, "done": done})
    assert let_go_on == [("7", 0), ("7", 1)]
