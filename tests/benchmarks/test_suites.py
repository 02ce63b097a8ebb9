"""Each suite that the settings name is a module that measures."""

from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import pytest

from laser.config.jobs import Suite


@pytest.mark.parametrize("suite", get_args(Suite))
def test_a_suite_is_a_module_with_a_run(suite: str):
    spec = find_spec(f"laser.benchmarks.{suite}")
    assert spec is not None and spec.origin is not None
    assert "\ndef run(job: BenchmarkJob) -> BenchmarkResult:" in Path(spec.origin).read_text(encoding="utf-8")
