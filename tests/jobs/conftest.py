"""Jobs run as users run them: processes of their own, on SmolLM2 and MovieLens-100K, both cut to seconds of work."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SMALL = (
    "prompt.max_history_items=3",
    "prompt.max_item_tokens=8",
    "prompt.instruction=Sum up",
    "llm.num_layers=2",
    "llm.dtype=fp32",  # bf16, which auto takes where the hardware has it, rounds by the shapes of batches
    "llm.compile=false",
    "recommender.max_epochs=2",
    "mformer.num_experts=2",
    "mformer.num_virtual_tokens=4",
    "mformer.hidden_size=32",
    "training.stage1_epochs=2",
    "training.stage2_epochs=1",
    "training.batch_size=15",  # odd: the two workers' shares differ in size
    "training.train_users=60",
    "training.validation_users=60",
)

SURVIVED = pytest.StashKey[list[tuple[str, str, float, float]]]()


@dataclass(frozen=True)
class Workplace:
    """A working directory with a tracking store of its own."""

    directory: Path
    repo: Path

    def start(self, job: str, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
        environment = {**os.environ, **options.pop("environment", {})}
        command = [sys.executable, str(self.repo / "jobs" / job), *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.directory, env=environment, **pipes)

    def run(self, job: str, *arguments: str) -> dict[str, Any]:
        """Run a job to its end and return its summary."""
        process = self.start(job, *arguments)
        output, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors[-8000:]
        return json.loads(output.splitlines()[-1])

    def settings(self, config: str, *more: str) -> list[str]:
        cache = f"cache_dir={self.repo / '.cache' / 'laser'}"
        return [f"config={self.repo / 'configs' / config}", cache, *SMALL, *more]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, repo: Path, smollm2: Path) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("work"), repo)


@pytest.fixture
def survived(request: pytest.FixtureRequest) -> Callable[[str, str, float, float], None]:
    """Notes a fault that a run has survived, for the table at the end."""
    rows = request.config.stash.setdefault(SURVIVED, [])
    return lambda fault, remedy, seconds, difference: rows.append((fault, remedy, seconds, difference))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = config.stash.get(SURVIVED, [])
    if rows:
        terminalreporter.section("faults survived")
        terminalreporter.line(f"{'fault':44} {'recovered by':28} {'seconds lost':>12} {'difference':>11}")
        for fault, remedy, seconds, difference in rows:
            terminalreporter.line(f"{fault:44} {remedy:28} {seconds:12.1f} {difference:11.1e}")
