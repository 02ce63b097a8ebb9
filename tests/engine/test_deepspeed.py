"""DeepSpeed under our engine: the LLM in shards, Adam's moments at each ZeRO level, weights after an evaluation."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = Path(__file__).with_name("deepspeed_checks.py")


@pytest.fixture(scope="module")
def failures(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Traceback of each check that failed."""
    paths = {"PYTHONPATH": os.pathsep.join([*sys.path, str(CHECKS.parents[1])])}
    command = [sys.executable, str(CHECKS), str(tiny_llm), str(tmp_path_factory.mktemp("checks"))]
    done = subprocess.run(command, env={**os.environ, **paths}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "check",
    [
        "shards_hold_the_weights",
        "mlflow_is_left_to_the_driver",
        "moments_are_read_again",
        "weights_are_read_whole_after_an_evaluation",
    ],
)
def test_deepspeed_under_the_engine(failures, check):
    assert check not in failures, failures[check]
