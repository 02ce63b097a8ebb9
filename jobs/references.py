"""Fill a leaderboard: make the baselines that Laser is measured against, from popularity to recommenders that read
text, train experiments of Laser beside them if any are named, and compare all of them on the same test users.

    python jobs/references.py data=<folder>
    python jobs/references.py data=<folder> points=2 'laser=[configs/experiment/recommended.yaml]'

The settings of each baseline are chosen on validation, of as many tries as points= says; the test set is read only for
the chosen ones. An experiment is trained once, as it is. Each system is an MLflow run with a folder in
<output_dir>/references-<dataset>; another seed or another choice has its own. The comparison of all that a call names
lies there too, as leaderboard.html, .md and .json. What an earlier call made is found and not made again.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laser.cli.job import run_job
from laser.config.jobs import ReferencesJob

logger = logging.getLogger("references")


def main(job: ReferencesJob) -> Mapping[str, Any]:
    """Train, search, record and compare. The summary holds settings and metrics, and where the leaderboard is."""
    from laser.api import train_once
    from laser.config.paths import check_places
    from laser.recommenders.baselines import best_baseline, chosen_families, table
    from laser.reproduction.leaderboard import laser_experiments, record_baseline, run_summary, write_leaderboard
    from laser.sources.prepare import prepare_dataset
    from laser.storage.files import short_name
    from laser.tracking.environment import environment
    from laser.tracking.runs import open_tracking

    check_places(job)
    experiments, tracking = laser_experiments(job), open_tracking(job.tracking)
    dataset = prepare_dataset(job.data, Path(job.cache_dir).expanduser())
    families = chosen_families(job, dataset)
    directory = Path(job.output_dir).expanduser() / f"references-{short_name(dataset.name)}"
    # Laser comes first, so that a mistake in its settings is told before the searches.
    laser = {experiment.name: train_once(experiment, directory) for experiment in experiments}
    baselines, references = [], {}
    for family in families:
        baselines.append(best_baseline(job, family, dataset))
        references[family] = record_baseline(baselines[-1], dataset, directory, tracking, environment())
    logger.info("test metrics on %s:\n\n%s\n", dataset.name, table(baselines))
    configs = {one.family: {"config": one.experiment.recommender.model_dump(mode="json")} for one in baselines}
    return {
        "dataset": dataset.name,
        "data": dataset.facts(),
        "directory": str(directory),
        "references": {name: run_summary(run) | configs[name] for name, run in references.items()},
        "laser": {name: run_summary(run) for name, run in laser.items()},
        "leaderboard": write_leaderboard(job, [*laser.values(), *references.values()], directory, tracking),
    }


if __name__ == "__main__":
    run_job(main, ReferencesJob)
