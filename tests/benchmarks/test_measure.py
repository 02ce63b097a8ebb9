"""The arithmetic of measurements: turns, medians, ratios, and what a sweep's lines are read as."""

import pytest
import torch

from laser.benchmarks.measure import Timing, matrix_product, ratio, table, take_turns
from laser.benchmarks.tune import _ends_before, _note, _overheads, _Trial, _waits


def test_contestants_take_turns_in_alternating_order_and_warm_up_uncounted():
    order: list[str] = []
    timings = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, warmup=1)
    assert "".join(order) == "baabba"
    assert {name: len(timing.seconds) for name, timing in timings.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_the_median_of_the_rounds_own_ratios():
    slower, faster = Timing((4.0, 10.0, 9.0)), Timing((2.0, 1.0, 3.0))
    assert ratio(slower, faster) == {"median": 3.0, "min": 2.0, "max": 10.0}
    assert faster.per_second(6.0) == 3.0


def test_the_yardstick_counts_two_operations_a_multiplication():
    multiply, operations = matrix_product(torch.float32, torch.device("cpu"))
    assert operations == 2 * 2048**3
    multiply()


def test_a_table_has_a_line_for_each_row():
    lines = table([{"a": 1, "long": 0.123456}]).splitlines()
    assert lines == ["| a   |   long |", "| --- | -----: |", "| 1   | 0.1235 |"]
    assert table([]) == ""


LINES = """12:00:00 trial K=2 L=4 started
12:00:01 trial K=2 L=4, epoch 0: val/ndcg@10 0.0073
12:00:02 trial K=2 L=4, epoch 1: val/ndcg@10 0.0073
12:00:03 trial K=2 L=4 stopped: best val/ndcg@10 0.0111
12:00:04 trial K=2 L=8 started
encode items: 3/3 batch
12:00:05 trial K=2 L=8, epoch 0: val/ndcg@10 0.0073
12:00:06 trial K=2 L=8 finished: best val/ndcg@10 0.0111"""


def test_overheads_are_read_from_the_lines_of_a_sweep():
    trials: dict[str, _Trial] = {}
    for now, line in enumerate(LINES.splitlines()):
        _note(trials, line, 10.0 * now)
    for trial, seconds in zip(trials.values(), (12.0, 25.0), strict=True):
        trial.own_seconds = seconds
    named = list(trials.items())
    assert [name for name, _ in named] == ["K=2 L=4", "K=2 L=8"]
    assert _ends_before(named) == [0.0, 30.0]
    assert _overheads(named) == pytest.approx([30 - 12, 70 - 30 - 25])
    assert _waits(named, "stopped") == [60.0 - 30.0] and _waits(named, "finished") == []
