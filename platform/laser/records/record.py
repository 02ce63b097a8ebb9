"""Records runs of MLflow as a result in a folder, and writes the folder's page anew."""

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from laser.config.compose import flatten, read_yaml, validate
from laser.config.fields import marked, without
from laser.config.jobs import ReproduceJob
from laser.config.marks import FINGERPRINTED, LABEL, RECORDING, SEED, THIS_SESSION
from laser.config.schema import Experiment
from laser.errors import UserError
from laser.evaluation.user_ranks import TEST_RANKS
from laser.records.claims import as_json, check_claims
from laser.records.results import CLAIMS_FILE, COSTS, Result, SeedResult, read_results
from laser.records.results_page import results_figures, results_page
from laser.storage.files import write_json, write_whole
from laser.tracking.interface import StoredRun

_MAY_DIFFER = marked(Experiment, SEED, LABEL, THIS_SESSION, FINGERPRINTED)
"""Settings in which the runs of one result may differ."""


def update_results(job: ReproduceJob, find: Callable[[str], StoredRun]) -> dict[str, Any]:
    """Add a result to the folder, if the job names one, and write its page anew.

    Args:
        job: results, add, runs, references.
        find: run id → recorded run.

    Raises:
        UserError: no such folder, a file that is no result, or runs that do not belong together.
    """
    assert job.results is not None
    folder = Path(job.results).expanduser()
    if not folder.is_dir():
        raise UserError(f"results: {folder}: no such folder; make it, or name docs/results")
    if (job.add is None) != (not job.runs):
        raise UserError(f"add: {job.add}, runs: {list(job.runs)}; give both, a name and the MLflow run id of each seed")
    for reference in job.references:
        if reference != job.add and not (folder / f"{reference}.json").is_file():
            raise UserError(f"references: no result {reference!r} in {folder}; add it first")
    if job.add is not None:
        add_result(folder, job.add, [find(run_id) for run_id in job.runs], job.references)
    results = read_results(folder)
    verdicts = check_claims(results, folder)
    if verdicts:
        write_whole(folder / CLAIMS_FILE, as_json(verdicts))
    for name, figure in results_figures(results).items():
        write_whole(folder / name, figure)
    write_whole(folder / "README.md", results_page(results, folder, verdicts))
    return {"page": str(folder / "README.md"), "results": [result.name for result in results], "added": job.add}


def _anywhere(command: str) -> str:
    """The command without what belongs to one machine: where it wrote, cached and recorded, and where its data lay."""
    here = ("output_dir=", "cache_dir=", "tracking.uri=")
    words = [word.partition("=") for word in shlex.split(command) if not word.startswith(here)]
    return shlex.join(key + equals + _from_here(value) for key, equals, value in words)


def _from_here(path: str) -> str:
    """An absolute path relative to the working directory, which is the project's root; other text as it is."""
    return os.path.relpath(path) if os.path.isabs(path) else path


def add_result(folder: Path, name: str, runs: list[StoredRun], references: tuple[str, ...] = ()) -> Result:
    """Record runs, one for each seed, as one result; a result of this name is replaced.

    Raises:
        UserError: the runs differ in more than their seed, or one was not tested.
    """
    seeds: dict[str, SeedResult] = {}
    first: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    for run in runs:
        with tempfile.TemporaryDirectory() as temporary:
            config = validate(Experiment, read_yaml(run.fetch("config.yaml", Path(temporary))))
            settings = flatten(config)
            first = first or settings
            for key in sorted({*first, *settings}):
                if key not in _MAY_DIFFER and first.get(key) != settings.get(key):
                    raise UserError(
                        f"runs: {run.run_id} has {key}={settings.get(key)!r}, the first {first.get(key)!r}; "
                        "one result is one setting under several seeds"
                    )
            is_recommender = not run.has("checkpoint")
            # A recommender that is fitted in closed form has no seed: its one run counts as seed 0.
            seed = str(settings.get("recommender.seed", 0) if is_recommender else settings["training.seed"])
            if seed in seeds:
                raise UserError(f"runs: {run.run_id} has seed {seed} as another has; give one run for each seed")
            val, test = run.figures("best/"), run.figures("test/")
            if not test:
                raise UserError(f"runs: {run.run_id} has no test metrics; run jobs/evaluate.py run_id={run.run_id}")
            ranks = None
            if run.has("ranks") and run.has(TEST_RANKS.as_posix()):
                ranks = f"{name}-seed{seed}.parquet"
                shutil.copyfile(run.fetch("ranks", Path(temporary)) / TEST_RANKS.name, folder / ranks)
            if not seeds:
                environment = json.loads(run.fetch("environment.json", Path(temporary)).read_text())
                resolved = without(config, THIS_SESSION, RECORDING)
                resolved["data"]["path"] = _from_here(config.data.path)
            costs = {cost: value for cost, value in run.figures("").items() if cost in COSTS}
            seeds[seed] = SeedResult(run_id=run.run_id, val=val, test=test, costs=costs, ranks=ranks)
    tags = runs[0].tags()
    result = Result(
        name=name,
        title=tags.get("mlflow.runName", name),
        command=_anywhere(environment["command"]),
        commit=environment["commit"] or "unknown",
        hardware=environment["hardware"],
        packages=environment["packages"],
        dataset=tags["dataset"],
        fingerprint=tags["dataset_fingerprint"],
        config=resolved,
        seeds=seeds,
        references=references,
    )
    write_json(folder / f"{name}.json", result.model_dump(mode="json"))
    return result
