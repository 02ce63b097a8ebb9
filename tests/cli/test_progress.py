"""Progress in a log: short work may show nothing, long work shows lines."""

import time

import pytest

from laser.cli import progress as module
from laser.cli.progress import progress, waiting


def test_work_shows_its_last_line_unless_it_is_short_and_silent(capsys):
    for silent_seconds in (0.0, 60.0):
        with progress([1, 2], "count", "number", silent_seconds=silent_seconds) as numbers:
            assert list(numbers) == [1, 2]
    assert capsys.readouterr().err.startswith("count: 2/2 number, 0 s")


def test_silent_work_shows_lines_once_it_is_long(capsys):
    with progress(range(4), "count", "number", silent_seconds=0.05) as numbers:
        for _ in numbers:
            time.sleep(0.03)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[0].startswith("count: 2/4") and lines[1].startswith("count: 4/4")


def test_work_without_steps_shows_the_time_that_it_takes(capsys, monkeypatch):
    with waiting("invert"):
        pass
    assert not capsys.readouterr().err
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.02)
    with pytest.raises(ZeroDivisionError), waiting("invert"):
        time.sleep(0.1)
        raise ZeroDivisionError
    assert capsys.readouterr().err == "invert: 0 s, not done yet\n"
    with waiting("invert"):
        time.sleep(0.1)
    assert capsys.readouterr().err.splitlines() == ["invert: 0 s, not done yet", "invert: done, 0 s"]


def test_the_log_says_once_how_long_after_the_start_of_the_process_something_is_reached(caplog):
    caplog.set_level("INFO")
    for what in ("first test", "first test", "second test"):
        module.log_once_reached(what)
    first, second = caplog.messages
    assert first.startswith("first test ") and second.endswith(" s after the process started")
    assert 0 < float(first.split()[2]) < 24 * 3600
