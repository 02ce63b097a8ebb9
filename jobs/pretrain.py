"""Train the ID-based recommender under the M-Former until validation stops improving; later runs find it trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laser.config.cli import run_job
from laser.config.schema import Experiment


def main(config: Experiment) -> Mapping[str, Any]:
    """Train `recommender` on `data`, and record it as an MLflow run."""
    from laser.data.prepare import prepare_dataset
    from laser.tracking.runs import open_tracking
    from laser.training.outcome import TEST_RANKS
    from laser.training.pretrain import pretrained_recommender

    tracking = open_tracking(config.tracking)
    cache = Path(config.cache_dir).expanduser()
    dataset = prepare_dataset(config.data, cache)
    tags = {"dataset": dataset.name, "dataset_fingerprint": dataset.fingerprint, "recommender": config.recommender.type}
    with tracking.run(config, "pretrain", config.recommender.type, tags) as run:
        _, result = pretrained_recommender(config.recommender, dataset, cache, run.report)
        figures = {name: result[name] for name in ("epochs", "trainable_parameters", "tokens_per_second", "seconds")}
        for split, metrics in (("best", result["val"]), ("test", result["test"] or {})):
            figures |= {f"{split}/{name}": value for name, value in metrics.items()}
        run.summarise(figures)
        run.log_directory(Path(result["path"]), "recommender")
        if result["test"]:
            run.log_directory(Path(result["path"]) / TEST_RANKS.parent, "ranks")
    return {"run_id": run.run_id, **{name: value for name, value in result.items() if name != "history"}}


if __name__ == "__main__":
    run_job(main, Experiment, Path("configs/quickstart.yaml"))
