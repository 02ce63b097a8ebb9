"""What every job does on its command line, whatever its work."""

import json
import os
import subprocess
import sys

import pytest

from laser.cli.job import AllFailedError, run_job
from laser.config.section import Section

JOBS = ("benchmark", "cluster", "demo", "evaluate", "prepare", "pretrain", "references", "reproduce", "train", "tune")


class Nothing(Section):
    """No settings."""


def job(repo, name, *arguments, cwd, **environment):
    command = [sys.executable, str(repo / "jobs" / f"{name}.py"), *arguments]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, check=False, timeout=120
    )


@pytest.mark.parametrize("name", JOBS)
def test_help_is_shown_whatever_the_encoding(name, repo, tmp_path):
    done = job(repo, name, "--help", cwd=tmp_path, LC_ALL="C", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii() and b"usage: python jobs/" in done.stdout


@pytest.mark.parametrize("name", ["prepare", "tune"])
def test_the_default_configuration_is_found_from_any_folder(name, repo, tmp_path):
    done = job(repo, name, "data.path=/nowhere/at/all", "tracking.uri=gopher://x", cwd=tmp_path)
    assert done.returncode == 2
    assert b"config:" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_job_of_which_all_has_failed_shows_its_summary_and_status_1(capfd):
    def main(config: Nothing):
        raise AllFailedError("all 2 trials failed: no such luck", {"trials": 2})

    with pytest.raises(SystemExit) as ended:
        run_job(main, Nothing, arguments=[])
    assert ended.value.code == 1
    output, errors = capfd.readouterr()
    assert json.loads(output.splitlines()[-1]) == {"trials": 2}
    assert errors.splitlines()[-1] == "error: all 2 trials failed: no such luck"


SCRIPT = """
import os
from laser.cli.job import run_job
from laser.config.section import Section

def main(config):
    import torch
    return {"policy": os.environ["OMP_WAIT_POLICY"], "openmp": "OMP_NUM_THREADS" in torch.__config__.parallel_info()}

run_job(main, Section, arguments=[])
"""


@pytest.mark.parametrize("own", [None, "active"])
def test_threads_do_not_spin_while_they_wait_unless_the_user_says_so(own):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": own} if own else {}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == {"policy": own or "passive", "openmp": True}
