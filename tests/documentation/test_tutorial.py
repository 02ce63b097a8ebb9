"""docs/tutorial.md: its commands are few, their settings are read, and a reader who types them gets what it shows."""

import json
import os
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from documentation.tutorial import INSTALLATION, PAGE, Step, run, steps
from laser.config.compose import load_config
from laser.config.jobs import RecommendJob, ReportJob, ServeJob
from laser.config.schema import Experiment, TuneExperiment
from tiny.histories import save_histories

STEPS = steps(PAGE.read_text(encoding="utf-8"))
JOBS = {
    "jobs/prepare.py": (Experiment, "configs/quickstart.yaml"),
    "jobs/tune.py": (TuneExperiment, "configs/tune/demo.yaml"),
    "jobs/report.py": (ReportJob, None),
    "jobs/recommend.py": (RecommendJob, None),
    "jobs/serve.py": (ServeJob, None),
}
"""Jobs of the page, with their schemas and default files."""


def test_it_takes_at_most_fifteen_commands_and_shows_what_they_print():
    assert len(STEPS) <= 15
    silent = [step.command for step in STEPS[INSTALLATION:] if step.shown is None]
    assert [command.split()[0] for command in silent] == ["mkdir", "python", "kill"]  # CSV files, the server, its end
    assert silent[1].endswith("&")


@pytest.mark.parametrize("step", [step for step in STEPS if "jobs/" in step.command], ids=lambda step: step.command)
def test_the_settings_of_each_job_are_read(step: Step, repo: Path):
    words = shlex.split(step.command.partition(" > ")[0])
    schema, default = JOBS[words[1]]
    load_config(schema, words[2:], repo / default if default else None)


def test_the_page_shows_what_preparing_says_now(repo: Path, tmp_path: Path):
    config = load_config(Experiment, [f"data={save_histories(tmp_path / 'mine')}", f"cache_dir={tmp_path}"], None)
    summary = runpy.run_path(str(repo / "jobs/prepare.py"))["main"](config)
    [shown] = [step.shown for step in STEPS if "jobs/prepare.py" in step.command]
    assert shown is not None and form(json.dumps(summary)) == form(shown)


@pytest.mark.slow
@pytest.mark.ray
def test_a_reader_who_types_it_gets_what_it_shows(repo: Path, smollm2: Path, tmp_path: Path):
    files = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for name in subprocess.run(files, cwd=repo, capture_output=True, text=True, check=True).stdout.split("\0"):
        if (repo / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repo / name, tmp_path / name)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "laser").symlink_to(repo / ".cache" / "laser")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    commands = [
        step.command.replace("jobs/serve.py", f"jobs/serve.py port={port}").replace(
            "127.0.0.1:8000", f"127.0.0.1:{port}"
        )
        for step in STEPS[INSTALLATION:]
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    printed = run(commands, tmp_path, {"PATH": path, "PYTHONPATH": str(tmp_path / "platform")})
    for step, output in zip(STEPS[INSTALLATION:], printed, strict=True):
        if step.shown is not None:
            assert form(output) == form(step.shown), step.command


def form(output: str) -> Any:
    """Return what does not depend on the run: the keys of a summary or an answer, or else the first line."""
    last = output.strip().splitlines()[-1]
    return sorted(json.loads(last)) if last.startswith("{") else output.strip().splitlines()[0].split()
