"""A suite takes a benchmark's settings and returns its figures. `laser.config.jobs.Suite` lists the suites."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from laser.config.jobs import BenchmarkJob


@dataclass(frozen=True)
class BenchmarkResult:
    """What a suite found."""

    figures: Mapping[str, Any]
    """Figures with their unit in the name, and ratios, ready for JSON."""
    rows: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    """The same for a reader: a row for each contestant or setting, all with the same keys."""


def run_suite(job: BenchmarkJob) -> BenchmarkResult:
    """Measure `job.suite`, by `run` of the module of that name.

    The module is imported here, because each suite imports its own peers.
    """
    result: BenchmarkResult = import_module(f"laser.benchmarks.{job.suite}").run(job)
    return result
