"""Tests jobs/cluster.py as an operator uses it: a sweep starts worker nodes, they leave, and no process remains."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from laser.cluster.processes import Note, marked_processes

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SWEEP = (
    "space.mformer.num_virtual_tokens=null",
    "space.mformer.num_experts={choice: [2, 3]}",
    "search.driver_resource=head",
    "search.max_concurrent_trials=2",
    "training.num_workers=1",
    "training.zero_stage=0",
    "training.stage1_epochs=1",
    "training.stage2_epochs=0",
)
DEADLINE = 600


def started(workplace, directory: Path) -> "tuple[subprocess.Popen[str], Note]":
    process = workplace.start("cluster.py", f"directory={directory}", "idle_seconds=3")
    deadline = time.monotonic() + DEADLINE
    while not (directory / "environment.sh").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.2)
    note = Note.read(directory / "cluster.json")
    assert note is not None
    return process, note


def in_its_shell(workplace, directory: Path, *command: str) -> str:
    script = f". {shlex.quote(str(directory / 'environment.sh'))} && {shlex.join(command)}"
    result = subprocess.run(
        ["sh", "-c", script], cwd=workplace.directory, capture_output=True, text=True, timeout=2 * DEADLINE, check=False
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return result.stdout


def test_a_submitted_sweep_scales_up_and_down_and_ctrl_c_leaves_nothing(workplace, tmp_path):
    directory = tmp_path / "cluster"
    process, note = started(workplace, directory)
    settings = workplace.settings("tune/quickstart.yaml", *SWEEP)
    job = ("python", str(workplace.repo / "jobs" / "tune.py"), *settings)
    output = in_its_shell(workplace, directory, "ray", "job", "submit", "--", *job)
    assert '"trials": {"finished": 2, "stopped": 0, "failed": 0}' in output
    deadline = time.monotonic() + DEADLINE
    while "Total: 1\n" not in in_its_shell(workplace, directory, "ray", "list", "nodes", "--filter", "state=ALIVE"):
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGINT)
    summary, errors = process.communicate(timeout=DEADLINE)
    counts = [int(line.rpartition(" ")[2]) for line in errors.splitlines() if " nodes: " in line]
    assert counts[0] == counts[-1] == 1 and max(counts) == 3, errors
    assert (process.returncode, summary.strip()) == (0, '{"stopped": true, "most_nodes": 3}')
    assert not marked_processes(note.session) and not Path(note.session).exists()


def test_what_a_killed_cluster_left_is_stopped_from_elsewhere(workplace, tmp_path):
    directory = tmp_path / "cluster"
    process, note = started(workplace, directory)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert marked_processes(note.session)
    assert workplace.run("cluster.py", f"directory={directory}", "stop=true") == {"stopped": True}
    assert not marked_processes(note.session) and not Path(note.session).exists()
    assert workplace.run("cluster.py", f"directory={directory}", "stop=true") == {"stopped": False}
