"""Evaluate a recorded run again from its files: the selected weights, item embeddings, recommender and config."""

import logging
from collections.abc import Mapping
from typing import Any

from laser.cli.job import run_job
from laser.config.jobs import EvaluateJob

logger = logging.getLogger("evaluate")


def main(job: EvaluateJob) -> Mapping[str, Any]:
    """Rank the full catalogue for each user of the split, and record the metrics if the run has none of this split."""
    from laser.api import evaluated
    from laser.tracking.runs import open_records

    run = open_records(job.tracking, must_exist=True).find(job.run_id)
    found = evaluated(run, job.cache_dir, job.split)
    for finding in found.findings:
        logger.warning("%s", finding)
    prefix = "test/" if job.split == "test" else "best/"
    recorded = run.figures(prefix)
    if not recorded:
        run.summarise({f"{prefix}{name}": value for name, value in found.metrics.items()})
    return {
        "run_id": run.run_id,
        "split": job.split,
        "data": found.data,
        "metrics": found.metrics,
        "recorded": recorded or None,
        "findings": found.findings,
    }


if __name__ == "__main__":
    run_job(main, EvaluateJob)
