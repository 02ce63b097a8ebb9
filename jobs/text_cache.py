"""Measure how much of the text cache is shared by items and by users, and what low rank or a pool would save there.

    python jobs/text_cache.py data.path=<folder>
    python jobs/text_cache.py run_id=<run with a late prefix>

It asks CollectiveKV's question (arXiv 2601.19178) of the frozen LLM's keys and values, block by block. With a run, it
also says what the run ranks when the cache keeps less. Nothing is trained but the recommender, if it is missing.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from laser.cli.job import run_job
from laser.config.jobs import TextCacheJob


def main(job: TextCacheJob) -> Mapping[str, Any]:
    """Read the texts, measure them and write the report."""
    from laser.analysis.low_rank import ranked_with_less
    from laser.analysis.report import write_sharing
    from laser.analysis.shared_states import text_sharing
    from laser.api import opened
    from laser.config.paths import check_places, with_absolute_paths
    from laser.tracking.environment import environment
    from laser.tracking.runs import open_records
    from laser.training.prepare import prepare_inputs

    check_places(job)
    if job.run_id is None:
        config = with_absolute_paths(job)
        inputs, ranked = prepare_inputs(config), {}
        sharing = text_sharing(config, inputs, job.num_users)
    else:
        run = open_records(job.tracking, must_exist=True).find(job.run_id)
        with TemporaryDirectory() as to:
            config, inputs, checkpoint = opened(run, job.cache_dir, Path(to))
            sharing = text_sharing(config, inputs, job.num_users)
            ranked = ranked_with_less(config, inputs, checkpoint)
    facts = inputs.dataset.facts()
    return {"data": facts, **write_sharing(sharing, ranked, Path(job.report).expanduser(), facts, environment())}


if __name__ == "__main__":
    run_job(main, TextCacheJob, Path("configs/experiment/late-prefix.yaml"))
