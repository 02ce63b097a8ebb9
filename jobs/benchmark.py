"""Measure our speed and that of a peer in turns, on the same data, in one process tree; print one JSON line.

    python jobs/benchmark.py suite=train data.path=<folder>

Suites: train, encode, rank, catalogue, fitted, peers, prepare, sharding, tune, gpu, serve. docs/performance.md says
what the figures mean and shows those that we measured.
"""

import logging
from collections.abc import Mapping
from typing import Any

from laser.cli.job import run_job
from laser.config.jobs import BenchmarkJob

logger = logging.getLogger("benchmark")


def main(job: BenchmarkJob) -> Mapping[str, Any]:
    """Run one suite and log its table. The summary holds the figures, hardware, versions and commit."""
    from laser.benchmarks.measure import table
    from laser.benchmarks.suites import run_suite
    from laser.tracking.environment import environment

    result = run_suite(job)
    logger.info("suite %s\n\n%s\n", job.suite, table(result.rows))
    return {"suite": job.suite, "figures": dict(result.figures), "environment": environment()}


if __name__ == "__main__":
    run_job(main, BenchmarkJob)
