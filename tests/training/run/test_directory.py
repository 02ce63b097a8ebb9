"""Tests that each run gets its own directory, and that resuming finds the latest one."""

import subprocess
import sys

import pytest

from laser.errors import UserError
from laser.training.run.directory import run_directory


def test_a_second_run_of_the_same_name_gets_its_own_directory(tmp_path):
    names = [run_directory(tmp_path, "laser", resume=False).name for _ in range(3)]
    assert names == ["laser", "laser-2", "laser-3"]
    assert run_directory(tmp_path, "laser", resume=True).name == "laser-3"
    assert run_directory(tmp_path, "other", resume=False).name == "other"


def test_nothing_to_resume_is_said(tmp_path):
    with pytest.raises(UserError, match="resume"):
        run_directory(tmp_path, "laser", resume=True)


def test_processes_that_start_at_once_get_directories_of_their_own(tmp_path):
    make = (
        "import sys\nfrom pathlib import Path\nfrom laser.training.run.directory import run_directory\n"
        "for line in sys.stdin:\n"
        f"    print(*(run_directory(Path({str(tmp_path)!r}) / 'runs', 'a', resume=False).name for _ in range(40)))"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", make], **pipes) for _ in range(2)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    names = [name for process in processes for name in process.communicate()[0].split()]
    assert sorted(names) == sorted(["a", *(f"a-{number}" for number in range(2, 81))])
