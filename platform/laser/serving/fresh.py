"""Trains an experiment in this process, or on Ray Train workers, and packages its model without a record in MLflow."""

from pathlib import Path

from laser.config.schema import Experiment
from laser.data.dataset import open_dataset
from laser.serving.package import Identity, Package, read_package, write_package
from laser.storage.cache import make_once
from laser.storage.locks import held
from laser.training.prepare import make_artifacts
from laser.training.run.directory import run_directory
from laser.training.run.outcome import run_results
from laser.training.train import preflight, train_laser


def train_and_package(config: Experiment) -> tuple[Path, Package]:
    """Train an experiment, and return its directory and its packaged model.

    Args:
        config: with absolute paths (`with_absolute_paths`).
    """
    artifacts = make_artifacts(config)
    run_dir = run_directory(Path(config.output_dir), config.name, config.resume)
    with held(run_dir, "trains this run"):
        preflight(run_dir, config, artifacts)
        train_laser(config, artifacts, run_dir, lambda metrics, epoch: None)
    identity = Identity(
        run_id="",
        dataset=artifacts.dataset,
        fingerprint=artifacts.fingerprint,
        llm_source=config.llm.source,
        llm_content=artifacts.llm_content,
        recommender=config.recommender.type if config.uses_recommender else "none",
        commit="",
    )
    checkpoint = run_results(run_dir).artifacts["checkpoint"]
    dataset, place = open_dataset(artifacts.dataset_directory), run_dir / f"package-{checkpoint.name}"
    parts = (artifacts.recommender, artifacts.text_means)
    make_once(place, lambda aside: write_package(aside, config, dataset, checkpoint, *parts, identity))
    return run_dir, read_package(place)
