"""Which suites there are. A suite takes a benchmark's settings and returns its figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from laser.config.jobs import BenchmarkJob


@dataclass(frozen=True)
class BenchmarkResult:
    """What a suite found."""

    figures: Mapping[str, Any]
    """Named figures with their unit in the name, and ratios; JSON-able."""
    rows: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    """The same for a reader: a row a contestant or a setting, equal keys."""


Suite = Callable[[BenchmarkJob], BenchmarkResult]

SUITES = {
    name: f"laser.benchmarks.{name}" for name in ("train", "encode", "rank", "catalogue", "prepare", "sharding", "tune")
}
"""`suite` → the module whose `run` measures it; imported when asked for, because each brings its own peers."""


def run_suite(job: BenchmarkJob) -> BenchmarkResult:
    """Measure `job.suite`."""
    suite: Suite = import_module(SUITES[job.suite]).run
    return suite(job)
