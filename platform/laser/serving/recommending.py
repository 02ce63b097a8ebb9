"""What `jobs/recommend.py` does: whom it recommends to, and who answers."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from laser.config.compose import with_overrides
from laser.config.jobs import RecommendJob
from laser.serving.catalogue import open_catalogue
from laser.serving.files import ITEM, USER, Histories, check_readable, read_histories, read_ids
from laser.serving.lists import Work, answered_here, batches_of, dataset_histories, write_lists
from laser.serving.opening import open_named, run_dataset
from laser.serving.package import Package
from laser.serving.queries import Options
from laser.storage.places import check_file


def recommend(job: RecommendJob) -> Mapping[str, Any]:
    """Write the lists that a job asks for, and return its summary."""
    output, cache = _path(job.output), _path(job.cache_dir)
    check_file(output, "output")
    for setting in ("histories", "new_items"):
        if (name := getattr(job, setting)) is not None:
            check_readable(_path(name), setting)
    options = job_options(job)
    package = open_named(job.model, job.run_id, job.tracking, cache)
    new_items = None if job.new_items is None else _path(job.new_items)
    batches = batches_of(job_histories(job, package, cache), job.batch_users)
    # Made here, once, before any worker looks for it.
    catalogue = open_catalogue(package, cache, new_items, torch.device("cuda" if job.use_gpu else "cpu"))
    work = Work(package.folder, cache, options, new_items, job.use_gpu)
    on_ray = job.num_workers != 0 if job.num_workers is not None else cluster_at_hand()
    if on_ray:
        from laser.cluster.join import cluster
        from laser.serving.ray_lists import answered_on_ray

        with cluster():
            figures = write_lists(
                catalogue, batches, answered_on_ray(work, job.num_workers, job.cpus_per_worker), output
            )
    else:
        figures = write_lists(catalogue, batches, answered_here(work), output)
    model = asdict(package.identity)
    new = len(catalogue) - catalogue.num_known
    return {"output": str(output), "model": model, "on_ray": on_ray, "new_items": new, **figures}


def job_options(job: RecommendJob) -> Options:
    """Return how the lists are made, with the items of the job's files."""
    allowed, excluded = (
        None if file is None else read_ids(_path(file), setting, ITEM)
        for setting, file in (("allowed", job.allowed), ("excluded", job.excluded))
    )
    return Options.of(job.k, job.mask_history, allowed, excluded or ())


def job_histories(job: RecommendJob, package: Package, cache: Path) -> Histories:
    """Return the histories to recommend to: those of a file, or of users of the model's data."""
    if job.histories is not None:
        return read_histories(_path(job.histories))
    config = package.config
    if job.data is not None:
        config = with_overrides(config, {"data.path": job.data})
    dataset = run_dataset(config, cache, package.identity.fingerprint)
    users = None if job.users == "all" else read_ids(_path(job.users), "users", USER)
    return dataset_histories(dataset, job.history, users)


def cluster_at_hand() -> bool:
    """Whether this process belongs to a Ray cluster, as a job of `ray job submit` does."""
    return "RAY_ADDRESS" in os.environ


def _path(name: str) -> Path:
    return Path(name).expanduser().absolute()
