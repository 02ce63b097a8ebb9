"""docs/notebooks/first-steps.ipynb: its cells run, and its stored outputs are those of these cells."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = "docs/notebooks/first-steps.ipynb"


def cells(repo: Path) -> list[dict]:
    return [cell for cell in json.loads((repo / NOTEBOOK).read_text())["cells"] if cell["cell_type"] == "code"]


def test_it_is_stored_with_its_outputs(repo: Path):
    assert all(cell["outputs"] for cell in cells(repo))
    assert [cell["execution_count"] for cell in cells(repo)] == list(range(1, len(cells(repo)) + 1))


@pytest.mark.slow
def test_its_cells_run(repo: Path, smollm2: Path, tmp_path: Path):
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "laser").symlink_to(repo / ".cache" / "laser")
    command = [sys.executable, str(repo / "tests/documentation/notebook.py"), str(repo / NOTEBOOK)]
    environment = {**os.environ, "PYTHONPATH": str(repo / "platform")}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-8000:]
    now = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("[{")]
    for cell, outputs in zip(cells(repo), now, strict=True):
        assert [kinds(output) for output in outputs] == [kinds(output) for output in cell["outputs"]]


def kinds(output: dict) -> list[str]:
    """Return in which forms an output is shown, and the head of a table."""
    data = output["data"]
    head = data["text/plain"][0].split() if "text/html" in data else []
    return [*data, *head]
