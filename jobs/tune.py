"""Search over K, L and all other settings that `space` names; each trial is a training run on Ray Train workers.

The job runs on the cluster that RAY_ADDRESS names, as under `ray job submit -- python jobs/tune.py`, or on this machine
alone. After Ctrl-C, the sweep resumes with resume=true, and finished trials stay as they are. dry_run=true counts the
trials and says what they would take.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from laser.cli.job import AllFailedError, run_job
from laser.config.identity import part_of
from laser.config.jobs import TuneJob
from laser.config.schema import TuneExperiment

logger = logging.getLogger("tune")


def main(job: TuneJob) -> Mapping[str, Any]:
    """Run the search under one parent run in MLflow, and rank its trials; or say what the search would be."""
    config = part_of(job, TuneExperiment)
    if job.dry_run:
        from laser.forecast.dry_run import describe_search

        return describe_search(config)
    from laser.serving.registration import register_winner
    from laser.tracking.runs import open_tracking
    from laser.tracking.sweeps import SweepTracker, record_sweep
    from laser.tuning.baselines import validated_baselines
    from laser.tuning.leaderboard import all_failed, as_markdown, leaderboard, ranked
    from laser.tuning.search import plan_search, run_search, search_tags
    from laser.tuning.sweep import open_sweep

    tracking = open_tracking(config.tracking)
    plan = plan_search(config)
    sweep = open_sweep(config)
    run = tracking.run(config, "tune", sweep.path.name, search_tags(plan), sweep.run_id)
    with sweep.running(), run as parent:
        sweep.remember_run(parent.run_id)
        records = leaderboard(run_search(plan, sweep, SweepTracker(tracking, parent.run_id)))
        baselines = validated_baselines(plan)
        table = as_markdown(records, baselines)
        record_sweep(tracking, parent, table, [asdict(record) for record in records])
        logger.info("%s, best first:\n\n%s", sweep.path.name, table)
        logger.info("in a browser, while `make ui` runs: %s", tracking.address())
        whence = {"parent_run_id": parent.run_id, "runs_address": tracking.address(), "data": plan.data_facts()}
        summary = {**whence, **ranked(records), "baselines": baselines}
        winner = tracking.find(summary["best"]["run_id"]) if summary["best"] else None
        summary["registered"] = register_winner(winner, config.search.register_as, Path(config.cache_dir))
        sweep.mark_complete()
        if failure := all_failed(records):
            raise AllFailedError(failure, summary)
    return summary


if __name__ == "__main__":
    run_job(main, TuneJob, Path("configs/tune/demo.yaml"), resume_with="resume")
