"""Recorded results: a folder of JSON files, with the rank of every test user as Parquet beside them, and its page.

docs/results/
  <name>.json              one result: settings, command, commit, hardware, seeds, metrics, what it is compared with
  <name>-seed<n>.parquet   rank of each test user, and the recommended list (laser.evaluation.user_ranks)
  claims.yaml              what is claimed of them; claims.json says whether it holds (`laser.records.claims`)
  <dataset>.svg            a figure of all results on it, written with the page
  <dataset>-cost.svg       quality against trained weights, ours and the published, where any are
  README.md                the page, written from these files by `jobs/reproduce.py results=<folder>`
"""

from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import Field, ValidationError

from laser.config.explain import complaint
from laser.config.section import Section
from laser.errors import UserError
from laser.evaluation.metrics import RANK_METRICS
from laser.evaluation.significance import Comparison, compare
from laser.evaluation.user_ranks import read_ranks

SAMPLES = 10_000
"""Resamples of each comparison."""
COSTS = {
    "seconds": "seconds",
    "trainable_parameters": "trained weights",
    "statistics": "counted numbers",
    "peak_mib": "memory (MiB)",
}
"""What a run says of its costs, and how the page calls it. Memory is the most that was resident in the training."""
CLAIMS_FILE = "claims.json"
"""What is claimed of the results, and whether it holds (`laser.records.claims`)."""


class SeedResult(Section):
    """The run of one seed."""

    run_id: str
    """MLflow run id."""
    val: dict[str, float]
    """Validation metrics of the selected epoch; those with the history masked end in `_masked`."""
    test: dict[str, float]
    """Test metrics, named likewise; metrics of lists are among them where lists were made."""
    costs: dict[str, float] = {}
    """What the run took, as it recorded it (`COSTS`); results of before 2026-11-29 lack it."""
    ranks: str | None = None
    """Parquet file of the test users' ranks, beside this file; null where there is none."""


class Result(Section):
    """One recorded result."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name of the result and of its file."""
    title: str
    """What the result is."""
    command: str
    """The command that makes the result again."""
    commit: str
    """Commit of the code; it ends in `-dirty` where the code had changes."""
    hardware: dict[str, Any]
    """processor, cores, memory_gib, gpus."""
    packages: dict[str, str | None]
    """Package → version."""
    dataset: str
    fingerprint: str
    """Content hash of the prepared data."""
    config: dict[str, Any]
    """The resolved configuration of the first seed."""
    seeds: dict[str, SeedResult] = Field(min_length=1)
    references: tuple[str, ...] = ()
    """Baselines: names of the results that this one is compared with, user by user."""

    def runs(self) -> list[SeedResult]:
        """The runs in the order of their seeds."""
        return [self.seeds[seed] for seed in sorted(self.seeds, key=int)]

    def test_values(self, metric: str) -> list[float]:
        """The values of a test metric, one for each seed that has it."""
        return [run.test[metric] for run in self.runs() if metric in run.test]

    def cost(self, name: str) -> float | None:
        """The mean over the seeds of one of `COSTS`; None where no run recorded it."""
        values = [run.costs[name] for run in self.runs() if name in run.costs]
        return fmean(values) if values else None


def read_results(folder: Path) -> list[Result]:
    """All results of a folder, by name.

    Raises:
        UserError: a file is not of the schema, or names ranks or a baseline that are not there.
    """
    results = []
    for path in sorted(folder.glob("*.json")):
        if path.name == CLAIMS_FILE:
            continue
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


def compared(mine: Path, theirs: Path) -> dict[str, Comparison]:
    """Compare two files of ranks: metric → what a paired bootstrap over users says. Equal files are compared once."""
    return _compared(mine, theirs, *(path.stat().st_mtime_ns for path in (mine, theirs)), *RANK_METRICS)


@cache
def _compared(mine: Path, theirs: Path, *_: int | str) -> dict[str, Comparison]:
    return compare(read_ranks(mine), read_ranks(theirs), SAMPLES)


def paired_ranks(result: Result, baseline: Result) -> list[tuple[str, str, str]]:
    """Files of ranks of both, seed by seed; a baseline of one seed is compared with every seed."""
    pairs = []
    for seed, run in sorted(result.seeds.items()):
        other = baseline.seeds.get(seed) or (baseline.runs()[0] if len(baseline.seeds) == 1 else None)
        if other is not None and run.ranks is not None and other.ranks is not None:
            pairs.append((run.ranks, other.ranks, seed))
    return pairs
