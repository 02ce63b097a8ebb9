"""Tests that each run gets its own directory, and that resuming finds the latest one."""

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
