"""Measure how well new items are recommended: leave a share of the items out, train, and let them join by their text.

    python jobs/cold.py data.path=<folder>

The table compares the model with popularity and with text alone, on the users whose test item was left out.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laser.cli.job import run_job
from laser.config.jobs import ColdJob

logger = logging.getLogger("cold")


def main(job: ColdJob) -> Mapping[str, Any]:
    """Train without the items, then rank them. The summary holds each contestant's metrics."""
    from laser.cli.tables import markdown_table
    from laser.config.identity import as_experiment
    from laser.config.paths import check_places, with_absolute_paths
    from laser.serving.answerer import Answerer
    from laser.serving.cold import cold_metrics, leave_items_out, table_rows, without_items
    from laser.serving.fresh import train_and_package
    from laser.sources.prepare import prepare_dataset
    from laser.storage.files import write_json
    from laser.tracking.environment import environment

    check_places(job)
    config = with_absolute_paths(as_experiment(job))
    cache = Path(config.cache_dir)
    dataset = prepare_dataset(config.data, cache)
    data = leave_items_out(dataset, job.cold.fraction, job.cold.seed, cache)
    run_dir, package = train_and_package(without_items(config, data))
    answerer = Answerer.open(package, cache, data.new_items, config.training.use_gpu)
    figures = cold_metrics(answerer, dataset, data, cache)
    table = markdown_table(["ranked by", "NDCG@10", "Recall@10", "NDCG@10 among new items"], table_rows(figures))
    logger.info("%d users whose next item is new:\n\n%s\n", figures["cold_users"], table)
    write_json(run_dir / "cold.json", {"figures": figures, "environment": environment()})
    return {"run_dir": str(run_dir), "data": dataset.facts(), **figures}


if __name__ == "__main__":
    run_job(main, ColdJob, Path("configs/experiment/cold-items.yaml"))
