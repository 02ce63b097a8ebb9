"""Train Laser once: a frozen LLM under Bi-Tuning with an M-Former, in two stages, here or on Ray Train workers.

The job first makes what the cache lacks: dataset, converted LLM, ID-based recommender and encodings. After Ctrl-C, the
run resumes with resume=true, also on another number of workers.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from laser.cli.job import run_job
from laser.config.schema import Experiment


def main(config: Experiment) -> Mapping[str, Any]:
    """Train, select on validation, test once, and record everything as an MLflow run."""
    from laser.api import load_data, train

    run = train(config)
    return {
        "run_id": run.stored.run_id,
        "runs_address": run.address,
        "run_dir": str(run.directory),
        "data": load_data(config).facts(),
        **asdict(run.outcome),
    }


if __name__ == "__main__":
    run_job(main, Experiment, Path("configs/quickstart.yaml"), resume_with="resume")
