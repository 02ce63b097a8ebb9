"""A running sweep on the screen, in a pseudo terminal and in a log."""

import logging
import os
import re
import select
import sys
from collections.abc import Callable

import pytest

from laser.config.compose import with_overrides
from laser.config.schema import Experiment
from laser.tracking.interface import EPOCH
from laser.tuning.sweep import Sweep
from laser.tuning.table import COLUMNS, Row, SweepTable
from laser.tuning.trial import METRIC

BASE = with_overrides(Experiment(), {"training.stage1_epochs": 3, "training.stage2_epochs": 1})
K4 = {"mformer.num_experts": 4, "mformer.num_virtual_tokens": 16}
REPORT = {EPOCH: 1, METRIC: 0.1234, "loss": 5.4321, "histories_per_second": 87.65}


def run(table: SweepTable, sweep: Sweep) -> None:
    """Two trials, of which one ends, and a message meanwhile."""
    first, second = sweep.trial(K4), sweep.trial({**K4, "mformer.num_experts": 8})
    table.begin()
    table.started(first)
    table.epoch(first, {EPOCH: 0, METRIC: 0.01})
    logging.getLogger("elsewhere").warning("a real warning")
    table.epoch(first, REPORT)
    table.epoch(first, {**REPORT, METRIC: 0.5})  # the best epoch, under the number of the last
    table.started(second)
    table.ended(first, "finished")
    table.end()


def on_a_terminal(work: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the work with a pseudo terminal of 100 columns as standard error, and return what that got."""
    screen, stderr = os.openpty()
    monkeypatch.setenv("COLUMNS", "100")
    with open(stderr, "w") as file, open(screen, "rb", buffering=0) as master:
        monkeypatch.setattr(sys, "stderr", file)
        handler = logging.StreamHandler(file)
        logging.getLogger().addHandler(handler)
        work()
        logging.getLogger().removeHandler(handler)
        assert handler.stream is file and sys.stderr is file  # the table has given them back
        file.flush()
        text = b""
        while select.select([master], [], [], 0.0)[0]:
            text += master.read(1 << 16)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.decode())


def test_a_terminal_shows_one_table_and_messages_above_it(monkeypatch, tmp_path):
    text = on_a_terminal(lambda: run(SweepTable(BASE, 3), Sweep(tmp_path)), monkeypatch)
    last = text[text.rindex("┏") :]
    for word in (*COLUMNS, "K=4 L=16", "1/4", "5.4321", "0.5000", "87.7", "finished", "starts", "1 of 3 trials ended"):
        assert word in last, word
    assert "a real warning" in text and "a real warning" not in last
    assert "trial K=4 L=16: epoch" not in text  # the table says it


def test_a_log_gets_a_line_for_each_epoch(caplog, capsys, tmp_path):
    caplog.set_level(logging.INFO, "laser.tuning.table")
    run(SweepTable(BASE, 3), Sweep(tmp_path))
    lines = [record.getMessage() for record in caplog.records if record.name == "laser.tuning.table"]
    assert lines[:2] == ["trial K=4 L=16: starts", "trial K=4 L=16: epoch 0/4, NDCG@10 0.0100"]
    words = "trial K=4 L=16: epoch 1/4, loss 5.4321, NDCG@10 0.1234, histories/s 87.7, time left 0:00"
    assert lines[2] == words and lines[3] == "trial K=8 L=16: starts"
    assert "┏" not in "".join(capsys.readouterr())


def test_time_left_counts_the_epochs_of_this_session():
    row = Row("K=4", 4, 8, num_epochs=10)
    row.take({EPOCH: 4, METRIC: 0.1}, now=100.0)  # resumed: nothing is known of its speed
    assert row.cells(100.0)[-1] == "trains"
    row.take({EPOCH: 6, METRIC: 0.1}, now=300.0)
    assert row.cells(300.0)[-1] == "6:40" and row.cells(320.0)[-1] == "6:20"
    row.take({EPOCH: 4, METRIC: 0.1}, now=900.0)  # its workers were lost, and an earlier checkpoint is the start
    row.take({EPOCH: 5, METRIC: 0.1}, now=910.0)
    assert row.cells(910.0)[-1] == "0:50"
