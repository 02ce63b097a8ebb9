"""Prepare a dataset: read the raw files, filter, split, and write Parquet with a manifest into the cache."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laser.cli.job import run_job
from laser.config.schema import Experiment


def main(config: Experiment) -> Mapping[str, Any]:
    """Prepare `data`, unless the cache already holds it."""
    from laser.sources.prepare import prepare_dataset

    dataset = prepare_dataset(config.data, Path(config.cache_dir).expanduser())
    return {
        "dataset": str(dataset.path),
        "fingerprint": dataset.fingerprint,
        "num_users": dataset.num_users,
        "num_items": dataset.num_items,
        "num_interactions": dataset.num_interactions,
        "rejected": dataset.manifest["rejected"],
        "notes": dataset.facts()["notes"],
    }


if __name__ == "__main__":
    run_job(main, Experiment, Path("configs/quickstart.yaml"))
