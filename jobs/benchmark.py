"""Measure speed: ours beside a peer, in turns, on the same data, in one process tree; one JSON line of figures.

    python jobs/benchmark.py suite=train data.path=<folder>

Suites: train, encode, rank, catalogue, prepare, sharding, tune. docs/performance.md says what the figures mean, and
shows ours.
"""

import logging
from collections.abc import Mapping
from typing import Any

from laser.cli.job import run_job
from laser.config.jobs import BenchmarkJob

logger = logging.getLogger("benchmark")


def main(job: BenchmarkJob) -> Mapping[str, Any]:
    """Run one suite: the table on standard error; figures, hardware, versions and commit in the summary."""
    from laser.benchmarks.measure import table
    from laser.benchmarks.suites import run_suite
    from laser.tracking.environment import environment

    result = run_suite(job)
    logger.info("suite %s\n\n%s\n", job.suite, table(result.rows))
    return {"suite": job.suite, "figures": dict(result.figures), "environment": environment()}


if __name__ == "__main__":
    run_job(main, BenchmarkJob)
