"""Opens a model by its name: a registered one, a folder, or a recorded run, which is packaged once into the cache."""

import hashlib
import tempfile
from pathlib import Path

import torch

from laser.config.compose import read_yaml, validate, with_overrides
from laser.config.identity import llm_content, stage_key
from laser.config.paths import with_absolute_paths
from laser.config.schema import Experiment, TrackingConfig
from laser.data.dataset import Dataset
from laser.errors import UserError
from laser.recommenders.text_features import make_text_means
from laser.serving.package import SCHEMA_VERSION, Identity, Package, read_package, write_package
from laser.sources.prepare import prepare_dataset
from laser.storage.cache import make_once
from laser.tracking.interface import StoredRun
from laser.tracking.models import SCHEME, fetched_package
from laser.tracking.runs import open_tracking
from laser.training.train import LLM_TAG


def packaged_run(run: StoredRun, cache: Path) -> Package:
    """Return the package of a run of `jobs/train.py` or of a trial: its selected checkpoint, recommender and items.

    Args:
        run: the recorded run.
        cache: the cache of all artifacts; the package is `packages/<key>` in it.

    Raises:
        UserError: the run has no checkpoint, or its data have changed since.
    """
    cache = cache.expanduser().absolute()
    with tempfile.TemporaryDirectory() as temporary:
        aside = Path(temporary)
        checksums = run.fetch("checkpoint/checksums.json", aside / "sums").read_bytes()
        key = stage_key("package", SCHEMA_VERSION, run.run_id, hashlib.sha256(checksums).hexdigest())

        def make(folder: Path) -> None:
            config = validate(Experiment, read_yaml(run.fetch("config.yaml", aside)))
            recommender = run.fetch("recommender", aside) if config.uses_recommender else None
            dataset = run_dataset(config, cache, run.tags()["dataset_fingerprint"])
            checkpoint = run.fetch("checkpoint", aside)
            means = make_text_means(config, dataset, cache, torch.device("cpu"))
            identity = _identity(run, config, dataset, cache)
            write_package(folder, config, dataset, checkpoint, recommender, means, identity)

        make_once(cache / "packages" / key, make)
    return read_package(cache / "packages" / key)


def run_dataset(config: Experiment, cache: Path, fingerprint: str) -> Dataset:
    """Return the data of an experiment, prepared.

    Raises:
        UserError: the data are not there, or have changed since the fingerprint was taken.
    """
    config = with_absolute_paths(with_overrides(config, {"cache_dir": str(cache)}))
    dataset = prepare_dataset(config.data, cache)
    if dataset.fingerprint != fingerprint:
        raise UserError(
            f"data.path: {config.data.path} has changed since the run: fingerprint {dataset.fingerprint}, then "
            f"{fingerprint}"
        )
    return dataset


def _identity(run: StoredRun, config: Experiment, dataset: Dataset, cache: Path) -> Identity:
    tags = run.tags()
    return Identity(
        run_id=run.run_id,
        dataset=dataset.name,
        fingerprint=dataset.fingerprint,
        llm_source=config.llm.source,
        llm_content=tags.get(LLM_TAG) or llm_content(config.llm.source, cache),
        recommender=config.recommender.type if config.uses_recommender else "none",
        commit=tags.get("commit", ""),
    )


def open_named(model: str | None, run_id: str | None, tracking: TrackingConfig, cache: Path) -> Package:
    """Return the package that a job's settings name.

    Args:
        model: a registered model (`models:/laser@champion`) or the folder of a package.
        run_id: a recorded run, if no model is given.
        tracking: where models and runs are recorded.
        cache: the cache of all artifacts.

    Raises:
        UserError: there is no such model or run.
    """
    cache = cache.expanduser().absolute()
    if model is not None and not model.startswith(SCHEME):
        return read_package(Path(model).expanduser().absolute())
    store = open_tracking(tracking, must_exist=True)
    if model is not None:
        return read_package(fetched_package(store.uri, model, cache))
    assert run_id is not None
    return packaged_run(store.find(run_id), cache)
