"""Train Laser once: a frozen LLM under Bi-Tuning with an M-Former, in two stages, here or on Ray Train workers.

The job first makes what the cache lacks: dataset, converted LLM, ID-based recommender and encodings. After Ctrl-C, the
run resumes with resume=true, also on another number of workers.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from laser.cli.job import run_job
from laser.config.schema import Experiment


def main(config: Experiment) -> Mapping[str, Any]:
    """Train, select on validation, test once, and record everything as an MLflow run."""
    from laser.cluster.ray_private import check_temporary_folder
    from laser.config.compose import with_overrides
    from laser.config.paths import check_places, with_absolute_paths
    from laser.data.dataset import open_dataset
    from laser.storage.locks import held
    from laser.tracking.fetched import fetched_checkpoint
    from laser.tracking.runs import open_records
    from laser.training.prepare import make_artifacts
    from laser.training.run.directory import remember_run, remembered_run, run_directory
    from laser.training.run.outcome import run_results
    from laser.training.train import preflight, run_tags, train_laser

    check_places(config)
    if config.training.num_workers:
        check_temporary_folder()
    tracking = open_records(config.tracking)
    start = config.training.start_from
    if start is not None and not Path(start).expanduser().exists():
        run = tracking.find(start, setting="training.start_from")
        checkpoint = fetched_checkpoint(run, Path(config.cache_dir).expanduser() / "transfers" / start)
        config = with_overrides(config, {"training.start_from": str(checkpoint)})
    config = with_absolute_paths(config)
    artifacts = make_artifacts(config)
    run_dir = run_directory(Path(config.output_dir), config.name, config.resume)
    with held(run_dir, "trains this run"):
        preflight(run_dir, config, artifacts)
        with tracking.run(config, "train", run_dir.name, run_tags(config, artifacts), remembered_run(run_dir)) as run:
            remember_run(run_dir, run.run_id)
            outcome = train_laser(config, artifacts, run_dir, run.report)
            run.record(run_results(run_dir))
    data = open_dataset(artifacts.dataset_directory).facts()
    return {
        "run_id": run.run_id,
        "runs_address": tracking.address(),
        "run_dir": str(run_dir),
        "data": data,
        **asdict(outcome),
    }


if __name__ == "__main__":
    run_job(main, Experiment, Path("configs/quickstart.yaml"), resume_with="resume")
