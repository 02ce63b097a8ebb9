"""Measure how much of the text cache is shared by items and by users, and what low rank or a pool would save there.

    python jobs/text_cache.py data.path=<folder>

It asks CollectiveKV's question (arXiv 2601.19178) of the frozen LLM's keys and values, block by block. Nothing is
trained but the recommender, if it is missing.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laser.cli.job import run_job
from laser.config.jobs import TextCacheJob

logger = logging.getLogger("text_cache")


def main(job: TextCacheJob) -> Mapping[str, Any]:
    """Read the texts, measure them and write the report."""
    from laser.config.paths import check_places, with_absolute_paths
    from laser.reproduction.report.shared_states import write_sharing
    from laser.reproduction.shared_states import text_sharing
    from laser.tracking.environment import environment
    from laser.training.prepare import prepare_inputs

    check_places(job)
    config = with_absolute_paths(job)
    inputs = prepare_inputs(config)
    sharing = text_sharing(config, inputs, job.num_users)
    summary = write_sharing(sharing, Path(job.report).expanduser(), inputs.dataset.facts(), environment())
    return {"data": inputs.dataset.facts(), **summary}


if __name__ == "__main__":
    run_job(main, TextCacheJob, Path("configs/experiment/late-prefix.yaml"))
