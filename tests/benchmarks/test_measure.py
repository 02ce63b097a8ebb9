"""The arithmetic of measurements: turns, medians, ratios."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from laser.benchmarks.measure import Timing, matrix_product, ratio, table, take_turns


def test_contestants_take_turns_in_alternating_order_and_warm_up_uncounted():
    order: list[str] = []
    timings = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, warmup=1)
    assert "".join(order) == "baabba"
    assert {name: len(timing.seconds) for name, timing in timings.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_the_median_of_the_rounds_own_ratios():
    slower, faster = Timing((4.0, 10.0, 9.0)), Timing((2.0, 1.0, 3.0))
    assert ratio(slower, faster) == {"median": 3.0, "min": 2.0, "max": 10.0}
    assert faster.per_second(6.0) == 3.0


def test_the_matrix_product_takes_the_operations_that_it_says():
    multiply, operations = matrix_product(torch.float32, torch.device("cpu"))
    with FlopCounterMode(display=False) as counted:
        multiply()
    assert counted.get_total_flops() == operations == 2 * 2048**3


def test_a_table_has_a_line_for_each_row():
    lines = table([{"a": 1, "long": 0.123456}]).splitlines()
    assert lines == ["| a   |   long |", "| --- | -----: |", "| 1   | 0.1235 |"]
    assert table([]) == ""
