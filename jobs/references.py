"""Make the baselines that Laser is measured against, from popularity to recommenders that read text. The settings of
each are chosen on validation; the test set is read only for the chosen ones.

    python jobs/references.py data=<folder>

Each baseline is an MLflow run, and a folder in <output_dir>/references-<dataset> with result.json and
ranks/test.parquet; another seed or another choice has its own. What an earlier call made comes from the cache.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laser.cli.job import run_job
from laser.config.jobs import ReferencesJob

logger = logging.getLogger("references")


def main(job: ReferencesJob) -> Mapping[str, Any]:
    """Search, record and compare the baselines. The summary holds each family's settings and metrics."""
    from laser.config.identity import recommender_tags
    from laser.config.paths import check_places
    from laser.evaluation.user_ranks import TEST_RANKS
    from laser.recommenders.baselines import best_baseline, chosen_families, table
    from laser.sources.prepare import prepare_dataset
    from laser.storage.files import short_name
    from laser.tracking.environment import environment
    from laser.tracking.runs import open_tracking
    from laser.training.run.directory import remember_run, remembered_run

    check_places(job)
    tracking = open_tracking(job.tracking)
    cache = Path(job.cache_dir).expanduser()
    dataset = prepare_dataset(job.data, cache)
    families = chosen_families(job, dataset)
    directory = Path(job.output_dir).expanduser() / f"references-{short_name(dataset.name)}"
    baselines, summary = [], {}
    for family in families:
        baseline = best_baseline(job, family, dataset)
        tags = recommender_tags(baseline.experiment.recommender, dataset.name, dataset.fingerprint, cache)
        tags["data"], place = dataset.described(), directory / tags["settings_key"]
        with tracking.run(baseline.experiment, "reference", family, tags, remembered_run(place)) as run:
            remember_run(place, run.run_id)
            baseline.write(place, environment())
            run.summarise(baseline.figures())
            run.log_json(baseline.tries, "tries.json")
            if (place / TEST_RANKS).is_file():
                run.log_directory((place / TEST_RANKS).parent, "ranks")
        baselines.append(baseline)
        config, figures = baseline.experiment.recommender.model_dump(mode="json"), baseline.pretrained.summary()
        summary[family] = {"run_id": run.run_id, "config": config}
        summary[family] |= {name: figures[name] for name in ("val", "test", "seconds")}
    logger.info("test metrics on %s:\n\n%s\n", dataset.name, table(baselines))
    return {"dataset": dataset.name, "data": dataset.facts(), "directory": str(directory), "references": summary}


if __name__ == "__main__":
    run_job(main, ReferencesJob)
