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
