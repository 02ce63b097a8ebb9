"""Compare recorded runs on the same test users: a leaderboard with intervals, tests of all pairs, and groups of users.

    python jobs/compare.py runs=[<run id>,<run id>]
    python jobs/compare.py experiment=laser

Runs whose data, split or test users differ are refused, and the difference is named. The page is written as HTML and
Markdown, the figures as JSON, and all three are artifacts of a run of their own.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laser.cli.job import run_job
from laser.config.jobs import CompareJob

logger = logging.getLogger("compare")


def main(job: CompareJob) -> Mapping[str, Any]:
    """Read the runs, compare them and write the page. The summary holds the leaderboard and what to know of it."""
    from laser.reproduction.comparison import read_systems
    from laser.reproduction.leaderboard import record_comparison
    from laser.storage.places import check_file
    from laser.tracking.runs import open_records, runs_with_ranks

    page = Path(job.output).expanduser()
    check_file(page, "output")
    tracking = open_records(job.store(), must_exist=True)
    named = [tracking.find(run_id, "runs") for run_id in job.runs]
    summary = record_comparison(job, read_systems(named or runs_with_ranks(tracking, job.dataset)), tracking)
    logger.info("%s", page.with_suffix(".md").read_text(encoding="utf-8"))
    return summary


if __name__ == "__main__":
    run_job(main, CompareJob)
