"""Recorded results: a folder of JSON files, with the rank of every test user as Parquet beside them, and its page.

docs/results/
  <name>.json              one result: settings, command, commit, hardware, seeds, metrics, what it is compared with
  <name>-seed<n>.parquet   user_id, target, rank, rank_masked of each test user (laser.evaluation.user_ranks)
  README.md                the page, written from these files by `jobs/reproduce.py results=<folder>`
"""

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from laser.config.compose import complaint, flatten, read_yaml, validate
from laser.config.errors import UserError
from laser.config.files import write_json, write_whole
from laser.config.jobs import ReproduceJob
from laser.config.schema import Experiment
from laser.config.section import Section
from laser.reproduction.store import StoredRun

RANKS = "ranks/test.parquet"
SEEDS = ("training.seed", "recommender.seed", "recommender.trained.seed")
NOT_SETTINGS = (*SEEDS, "name", "cache_dir", "output_dir", "resume", "data.path")
"""In what the runs of one result may differ."""


class SeedResult(Section):
    """What one run gave."""

    run_id: str
    """MLflow run id."""
    val: dict[str, float]
    """Validation metrics of the selected epoch; those with the history masked end in `_masked`."""
    test: dict[str, float]
    """Test metrics, the same."""
    ranks: str | None = None
    """Parquet file of the test users' ranks, beside this file."""


class Result(Section):
    """One recorded result."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Names the file."""
    title: str
    """What it is, for the page."""
    command: str
    """That gives it again."""
    commit: str
    """Of the code; with `-dirty` where it had changes."""
    hardware: dict[str, Any]
    """processor, cores, memory_gib, gpus."""
    packages: dict[str, str | None]
    """Versions."""
    dataset: str
    fingerprint: str
    """Content hash of the prepared data."""
    config: dict[str, Any]
    """The resolved configuration of the first seed."""
    seeds: dict[str, SeedResult] = Field(min_length=1)
    references: tuple[str, ...] = ()
    """Names of the results that it is compared with, user by user."""

    def runs(self) -> list[SeedResult]:
        """By seed."""
        return [self.seeds[seed] for seed in sorted(self.seeds, key=int)]

    def test_values(self, metric: str) -> list[float]:
        """A value for each seed that has it."""
        return [run.test[metric] for run in self.runs() if metric in run.test]


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
    from laser.reproduction.results_page import results_page

    write_whole(folder / "README.md", results_page(results, folder))
    return {"page": str(folder / "README.md"), "results": [result.name for result in results], "added": job.add}


def read_results(folder: Path) -> list[Result]:
    """All results of a folder, by name.

    Raises:
        UserError: a file is not of the schema, or names ranks or a reference that are not there.
    """
    results = []
    for path in sorted(folder.glob("*.json")):
        try:
            result = Result.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            field = ".".join(map(str, error.errors()[0]["loc"]))
            raise UserError(f"{path}: {field}: {complaint(error)[:300]}") from error
        if result.name != path.stem:
            raise UserError(f"{path}: name: {result.name!r}; wanted {path.stem!r}, as the file is called")
        for run in result.runs():
            if run.ranks is not None and not (folder / run.ranks).is_file():
                raise UserError(f"{path}: ranks: no file {folder / run.ranks}; put it there, or set ranks to null")
        results.append(result)
    names = {result.name for result in results}
    for result in results:
        for reference in result.references:
            if reference not in names:
                raise UserError(
                    f"{folder / result.name}.json: references: no result {reference!r} (there are: "
                    f"{', '.join(sorted(names))}); add it first"
                )
    return results


def _anywhere(command: str) -> str:
    """The command without what is of one machine: where it wrote, cached and recorded, and where its data lay."""
    here = ("output_dir=", "cache_dir=", "tracking.uri=")
    words = [word.partition("=") for word in shlex.split(command) if not word.startswith(here)]
    return shlex.join(key + equals + _from_here(value) for key, equals, value in words)


def _from_here(path: str) -> str:
    """An absolute path as seen from the working directory, which is the project's root; all else as it is."""
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
                if key not in NOT_SETTINGS and first.get(key) != settings.get(key):
                    raise UserError(
                        f"runs: {run.run_id} has {key}={settings.get(key)!r}, the first {first.get(key)!r}; "
                        "one result is one setting under several seeds"
                    )
            is_recommender = not run.has("checkpoint")
            # What is fitted in closed form has no seed of its own, and no other run's is like it.
            seed = str(settings.get("recommender.seed", 0) if is_recommender else settings["training.seed"])
            if seed in seeds:
                raise UserError(f"runs: {run.run_id} has seed {seed} as another has; give one run for each seed")
            val, test = run.figures("best/"), run.figures("test/")
            if not test:
                raise UserError(f"runs: {run.run_id} has no test metrics; run jobs/evaluate.py run_id={run.run_id}")
            ranks = None
            if run.has("ranks") and run.has(RANKS):
                ranks = f"{name}-seed{seed}.parquet"
                shutil.copyfile(run.fetch("ranks", Path(temporary)) / "test.parquet", folder / ranks)
            if not seeds:
                environment = json.loads(run.fetch("environment.json", Path(temporary)).read_text())
                resolved = config.model_dump(mode="json", exclude={"tracking", "cache_dir", "output_dir", "resume"})
                resolved["data"]["path"] = _from_here(config.data.path)
            seeds[seed] = SeedResult(run_id=run.run_id, val=val, test=test, ranks=ranks)
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
