"""What a sweep adds to its trials, derived from their records."""

import pytest

from laser.benchmarks.tune import ends_before, overheads, summarise, waits
from laser.tuning.sweep import Sweep, TrialRecord

PLAIN = [
    TrialRecord("K=2 L=4", {}, "finished", "a", started=100.0, first_epoch=110.0, ended=130.0, seconds=12.0),
    TrialRecord("K=2 L=8", {}, "finished", "b", started=132.0, first_epoch=150.0, ended=170.0, seconds=25.0),
]
ASHA = [
    TrialRecord("K=2 L=4", {}, "stopped", "c", started=200.0, first_epoch=212.0, ended=230.0, seconds=10.0),
    TrialRecord("K=2 L=8", {}, "finished", "d", started=231.0, first_epoch=245.0, ended=280.0, seconds=30.0),
]


def test_overheads_and_waits_follow_from_the_moments_of_records():
    assert ends_before(PLAIN) == [100.0, 130.0]
    assert overheads(PLAIN) == pytest.approx([30 - 12, 40 - 25])
    assert waits(PLAIN, "finished") == [20.0] and waits(PLAIN, "stopped") == []
    assert waits(ASHA, "stopped") == [15.0] and waits(ASHA, "finished") == []


def test_figures_come_from_record_files_alone(tmp_path):
    sweeps = {}
    for scheduler, records in (("none", PLAIN), ("asha", ASHA)):
        sweep = Sweep(tmp_path / scheduler)
        for number, record in enumerate(reversed(records)):  # files are not in the order of the trials
            sweep.trial({"training.seed": number}).write_record(record)
        sweeps[scheduler] = sweep.records()
    result = summarise(sweeps)
    assert result.figures == {
        "overhead_seconds_per_trial": {"median": 19.0, "min": 15.0, "max": 20.0},
        "overhead_share_of_5_minute_trial": round(19 / 300, 4),
        "seconds_to_next_first_epoch": {"after_finished": 20.0, "after_stopped": 15.0},
        "trials": {"finished": 1, "stopped": 1},
    }
    assert [row["start to first epoch"] for row in result.rows] == [10.0, 18.0, 12.0, 14.0]
    assert [row["from the one before"] for row in result.rows] == [30.0, 40.0, 30.0, 50.0]
