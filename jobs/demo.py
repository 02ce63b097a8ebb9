"""Run everything, from no data to a tuned Laser, with MovieLens-100K, SmolLM2, a local Ray cluster and MLflow.

The job prepares the data and trains the ID-based recommender. Then it starts a Ray head on this machine, submits
jobs/tune.py to it, which searches over K and L, and stops the head. It reuses what an earlier run has made, and resumes
a search that was interrupted.
"""

import json
import logging
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laser.cli.job import run_job
from laser.config.schema import TuneExperiment
from laser.storage.credentials import masked

logger = logging.getLogger("demo")

JOBS = Path(__file__).resolve().parent


def main(config: TuneExperiment) -> Mapping[str, Any]:
    """Run all steps and return the summary of the search."""
    from laser.cluster.local import local_cluster
    from laser.tuning.sweep import latest_sweep

    overrides = sys.argv[1:]
    shared = [word for word in overrides if not word.startswith(("config=", "search.", "space."))]
    for name in ("prepare", "pretrain"):
        run([sys.executable, str(JOBS / f"{name}.py"), *shared])
    sweep = latest_sweep(config)
    if sweep is not None and not sweep.complete:
        logger.info("an earlier search was interrupted; resuming %s", sweep.path)
        overrides.append("resume=true")
    with local_cluster(Path(config.cache_dir) / "demo-cluster") as cluster:
        summary = json.loads(cluster.run_job([sys.executable, str(JOBS / "tune.py"), *overrides]))
    logger.info("next, the trials in a browser: make ui")
    logger.info("next, lists for all users: .venv/bin/python jobs/recommend.py model=models:/laser@champion")
    logger.info("next, the same on your data: .venv/bin/python jobs/tune.py data=<folder>")
    return summary


def run(command: list[str]) -> None:
    """Run another job, whose summary appears among the messages."""
    logger.info("$ %s", masked(shlex.join(command)))
    subprocess.run(command, check=True)


if __name__ == "__main__":
    run_job(main, TuneExperiment, Path("configs/tune/demo.yaml"))
