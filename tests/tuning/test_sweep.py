"""A sweep on disk: what a killed one leaves, and what the next one makes of it."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from laser.config.compose import with_overrides
from laser.config.schema import TuneExperiment
from laser.errors import UserError
from laser.tuning.sweep import Sweep, TrialRecord, latest_sweep, open_sweep, trial_name

K4_L8 = {"mformer.num_experts": 4, "mformer.num_virtual_tokens": 8}


@pytest.fixture
def config(tmp_path: Path) -> TuneExperiment:
    return TuneExperiment(name="demo", output_dir=str(tmp_path))


def record(**changes) -> TrialRecord:
    values = {"name": "K=4 L=8", "overrides": K4_L8, "state": "finished", "run_id": "abc", "val": {"ndcg@10": 0.1}}
    return TrialRecord(**{**values, **changes})


def test_each_sweep_has_a_directory_of_its_own(config):
    first, second = open_sweep(config), open_sweep(config)
    assert first.path != second.path
    assert latest_sweep(config).path == second.path


def test_resume_takes_the_latest_of_that_name(config):
    open_sweep(config)
    latest = open_sweep(config)
    latest.remember_run("run-7")
    resumed = open_sweep(with_overrides(config, {"resume": True}))
    assert (resumed.path, resumed.run_id) == (latest.path, "run-7")


def test_nothing_to_resume_is_the_users_mistake(config):
    with pytest.raises(UserError, match="no sweep named 'demo'"):
        open_sweep(with_overrides(config, {"resume": True}))


def test_resume_refuses_settings_that_do_not_compare(config):
    open_sweep(config)
    with pytest.raises(UserError, match=r"training\.batch_size: 8 differs from 4"):
        open_sweep(with_overrides(config, {"resume": True, "training.batch_size": 8}))


def test_resume_refuses_another_llm_in_the_same_place(config, tmp_path):
    llm = tmp_path / "llm"
    llm.mkdir()
    (llm / "config.json").write_text("{}")
    config = with_overrides(config, {"llm.source": str(llm), "cache_dir": str(tmp_path / "cache")})
    sweep = open_sweep(config)
    assert open_sweep(with_overrides(config, {"resume": True})).path == sweep.path
    (llm / "model.safetensors").write_bytes(b"new weights")
    with pytest.raises(UserError, match=r"llm\.source: holds folder:.*, and the sweep to resume .* began with folder:"):
        open_sweep(with_overrides(config, {"resume": True}))


def test_resume_allows_another_number_of_workers(config):
    open_sweep(config)
    changed = {"resume": True, "training.num_workers": 2, "training.zero_stage": 3}
    assert open_sweep(with_overrides(config, changed)).records() == []


def test_records_come_back_as_written(config):
    sweep = open_sweep(config)
    trial = sweep.trial(K4_L8)
    assert trial.record() is None
    trial.write_record(record())
    assert Sweep(sweep.path).records() == [record()]
    assert sweep.trial(dict(K4_L8)).record() == record()


def test_unfinished_trials_are_those_started_without_a_record(config):
    sweep = open_sweep(config)
    ended, running = sweep.trial(K4_L8), sweep.trial({**K4_L8, "mformer.num_experts": 2})
    for trial in (ended, running):
        with trial.exclusive():
            pass
    ended.write_record(record())
    running.remember_run("run-8")
    assert [(trial.name, trial.run_id) for trial in sweep.unfinished_trials()] == [("K=2 L=8", "run-8")]


def test_a_failed_trial_has_not_ended_for_good():
    assert record().is_final and record(state="stopped").is_final
    assert not record(state="failed").is_final


def test_a_record_of_before_moments_were_kept_is_read(config):
    trial = open_sweep(config).trial(K4_L8)
    trial.write_record(record())
    path = trial.path / "record.json"
    content = json.loads(path.read_text())
    for name in ("started", "first_epoch", "ended", "seconds"):
        assert content.pop(name) is None
    path.write_text(json.dumps(content))
    assert trial.record() == record()


def test_a_moment_is_the_first_one_over_all_sessions(config):
    trial = open_sweep(config).trial(K4_L8)
    assert trial.moment("started") is None
    before = time.time()
    trial.note("started")
    noted = trial.moment("started")
    assert noted is not None and before - 0.001 <= noted <= time.time() + 0.001
    time.sleep(0.01)
    trial.note("started")
    assert trial.moment("started") == noted and trial.moment("first_epoch") is None


def test_two_processes_do_not_run_one_sweep(config):
    sweep = open_sweep(config)
    hold = (
        "import sys\nfrom pathlib import Path\nfrom laser.tuning.sweep import Sweep\n"
        f"with Sweep(Path({str(sweep.path)!r})).running():\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process runs this sweep"), sweep.running():
            pass
        other.communicate("")
    with sweep.running():
        pass


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (K4_L8, "K=4 L=8"),
        ({"training.learning_rate": 0.0001235}, "learning_rate=0.0001235"),
        ({"training.learning_rate": 0.00012345678}, "learning_rate=0.0001235 #"),
        ({"training.learning_rate": 0.00012345679}, "learning_rate=0.0001235 #"),
        ({"training.validation_users": None}, "validation_users=None"),
        ({"prompt.item_instruction": "None"}, "item_instruction=None #"),
        ({"prompt.instruction": "Sum up the user by their history"}, "instruction=Sum up the user by their history #"),
        ({"prompt.attributes": ["brand", "year"]}, "attributes=['brand', 'year']"),
        ({"mformer.dropout": 0.1, "recommender.dropout": 0.2}, "mformer.dropout=0.1 recommender.dropout=0.2"),
        ({}, "defaults"),
    ],
)
def test_names_tell_trials_apart(overrides, name):
    if name.endswith("#"):  # and a part of the hash
        assert re.fullmatch(re.escape(name) + "[0-9a-f]{6}", trial_name(overrides))
    else:
        assert trial_name(overrides) == name


def test_settings_that_print_alike_are_trials_apart(config):
    sweep = open_sweep(config)
    first = sweep.trial({"training.learning_rate": 0.00012345678})
    second = sweep.trial({"training.learning_rate": 0.00012345679})
    assert first.name != second.name and first.path != second.path
    assert first.path.name.startswith("learning_rate=0.0001235-")  # found again by sweeps of before
