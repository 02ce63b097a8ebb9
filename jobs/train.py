"""Train Laser once: a frozen LLM under Bi-Tuning with an M-Former, in two stages, here or on Ray Train workers.

The job first makes what the cache lacks: dataset, converted LLM, ID-based recommender and encodings. After Ctrl-C, the
run resumes with resume=true, also on another number of workers. dry_run=true says what the run would be.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from laser.cli.job import run_job
from laser.config.identity import as_experiment
from laser.config.jobs import TrainJob


def main(job: TrainJob) -> Mapping[str, Any]:
    """Train, select on validation, test once, and record it as an MLflow run; or say what the training would be."""
    config = as_experiment(job)
    if job.dry_run:
        from laser.forecast.dry_run import describe_training

        return describe_training(config)
    from laser.api import train

    run = train(config)
    return {
        "run_id": run.stored.run_id,
        "runs_address": run.address,
        "run_dir": str(run.directory),
        "data": run.data,
        **asdict(run.outcome),
    }


if __name__ == "__main__":
    run_job(main, TrainJob, Path("configs/quickstart.yaml"), resume_with="resume")
