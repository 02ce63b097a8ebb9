"""Train the ID-based recommender that the M-Former reads, until validation stops improving. Later runs reuse it.

After an interruption, the same command goes on where the training was.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laser.cli.job import run_job
from laser.config.schema import Experiment


def main(config: Experiment) -> Mapping[str, Any]:
    """Train `recommender` on `data`, and record it as an MLflow run."""
    from laser.config.identity import recommender_tags
    from laser.recommenders.pretraining import pretrained_recommender, pretraining_device
    from laser.sources.prepare import prepare_dataset
    from laser.tracking.runs import open_records

    tracking = open_records(config.tracking)
    cache = Path(config.cache_dir).expanduser()
    dataset = prepare_dataset(config.data, cache).trained_on(config.training.train_fraction, config.training.seed)
    tags = recommender_tags(config.recommender, dataset.name, dataset.fingerprint, cache)
    tags["data"] = dataset.described()
    with tracking.run(config, "pretrain", config.recommender.type, tags) as run:
        device = pretraining_device(config.training.use_gpu)
        pretrained = pretrained_recommender(config.recommender, dataset, cache, run.report, device=device)
        run.record(pretrained.run_results())
    return {"run_id": run.run_id, "data": dataset.facts(), **pretrained.summary()}


if __name__ == "__main__":
    run_job(main, Experiment, Path("configs/quickstart.yaml"))
