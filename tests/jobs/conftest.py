"""Runs jobs as users do, in their own processes, on SmolLM2 and MovieLens-100K, both cut to seconds of work."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from laser.cluster.local import LocalCluster, local_cluster

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
    environment: dict[str, str] = field(default_factory=dict)
    """What its jobs see beside the environment of the tests."""

    def start(self, job: str, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
        environment = {**os.environ, **self.environment, **options.pop("environment", {})}
        command = [sys.executable, str(self.repo / "jobs" / job), *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.directory, env=environment, **pipes)

    def run(self, job: str, *arguments: str) -> dict[str, Any]:
        """Run a job to its end and return its summary."""
        return self.finish(self.start(job, *arguments))

    @staticmethod
    def finish(process: "subprocess.Popen[str]") -> dict[str, Any]:
        """Wait for a job that ends well and return its summary."""
        output, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors[-8000:]
        return json.loads(output.splitlines()[-1])

    def settings(self, config: str, *more: str) -> list[str]:
        cache = f"cache_dir={self.repo / '.cache' / 'laser'}"
        return [f"config={self.repo / 'configs' / config}", cache, *SMALL, *more]


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database with its tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, repo: Path, smollm2: Path, empty_store: Path) -> Workplace:
    directory = tmp_path_factory.mktemp("work")
    shutil.copy(empty_store, directory)
    return Workplace(directory, repo)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """One Ray cluster for all jobs that do not need one of their own: each start takes some 10 seconds."""
    with local_cluster(tmp_path_factory.mktemp("ray") / "cluster") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def joined(workplace: Workplace, cluster: LocalCluster) -> Workplace:
    """The same workplace; its jobs join the shared cluster, as those of `ray job submit` do."""
    token = Path(cluster.environment["RAY_AUTH_TOKEN_PATH"]).read_text().strip()  # goes before the tests' own
    return replace(workplace, environment={**cluster.environment, "RAY_AUTH_TOKEN": token})


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
