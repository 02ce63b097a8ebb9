"""Pack all that a machine without a network needs to run a suite, in parts that can be carried one by one.

    python jobs/bundle.py config=configs/benchmark/gpu.yaml data.path=<folder> bundle.python=3.12

docs/guides/no-network.md says how the parts are put together there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laser.cli.job import run_job
from laser.config.jobs import BundleJob


def main(job: BundleJob) -> Mapping[str, Any]:
    """Make what the suite reads, fetch the wheels, and write the parts."""
    from laser.bundle.make import make_bundle
    from laser.tracking.environment import commit

    return make_bundle(job, Path(__file__).resolve().parents[1], commit())


if __name__ == "__main__":
    run_job(main, BundleJob)
