"""The choice of the ZeRO level by memory, and the calculation under it."""

import logging

import pytest

from laser.engine.memory import HEADROOM, Footprint, choose_level

GIB = 2**30
LARGE = Footprint(llm=12 * GIB, largest_block=GIB // 2, trainable=GIB, activations=2 * GIB)


def test_what_a_worker_needs_equals_arithmetic_by_hand():
    assert LARGE.needed(0, 4) == 12 * GIB + 2 * GIB + 4 * GIB  # weights, gradients, two moments
    assert LARGE.needed(2, 4) == 12 * GIB + 2 * GIB + GIB + 4 * GIB // 4  # gradients, moments, copy: in shards
    assert LARGE.needed(3, 4) == 3 * GIB + 2 * GIB + 5 * GIB // 4 + 3 * GIB // 2  # and three blocks whole


def test_the_llms_share_falls_as_one_over_workers_at_level_3_alone():
    alone = Footprint(llm=12 * GIB, largest_block=0, trainable=0, activations=0)
    assert [alone.needed(3, workers) for workers in (1, 2, 64)] == [12 * GIB, 6 * GIB, 12 * GIB // 64]
    assert {alone.needed(level, workers) for level in (0, 2) for workers in (1, 2, 64)} == {12 * GIB}


@pytest.mark.parametrize(("free", "level"), [(24, 0), (21, 2), (12, 3)])
def test_the_fastest_level_that_fits_is_taken_and_explained(free, level, caplog):
    caplog.set_level(logging.INFO)
    assert choose_level(LARGE, 4, free * GIB) == level
    [said] = caplog.messages
    assert f"auto → {level}, the fastest that fits" in said
    assert f"{HEADROOM * free:.2f} GiB of {free:.2f} GiB free" in said
    assert "level 0 needs 18.00 GiB" in said


def test_what_fits_nowhere_is_sharded_and_the_settings_to_lower_are_named(caplog):
    assert choose_level(LARGE, 4, GIB) == 3
    assert "may not fit" in caplog.messages[0] and "training.micro_batch_size" in caplog.messages[0]
