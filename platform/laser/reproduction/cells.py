"""The cells of a table: each row under each seed, as a checked configuration with a key that finds its result again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from laser.config.compose import flatten, with_overrides
from laser.config.identity import as_experiment, recommender_key, settings_key, stage_key
from laser.config.jobs import ReproduceJob
from laser.config.paths import with_absolute_paths
from laser.config.schema import Experiment
from laser.data.dataset import Dataset
from laser.errors import UserError
from laser.reproduction.paper import Row, Table, read_table, table_files
from laser.sources.prepare import prepare_dataset


@dataclass(frozen=True)
class Cell:
    """One run: a row under one seed."""

    row: str
    seed: int
    kind: Literal["laser", "recommender"]
    overrides: dict[str, Any]
    """The settings that differ from the base: dotted key → value, and the seed."""
    config: Experiment
    dataset: Dataset
    key: str
    """Equal for equal settings on equal data (`settings_key`): the tag that finds a stored run."""

    @property
    def name(self) -> str:
        return f"{self.row} seed={self.seed}"


def wanted_table(job: ReproduceJob) -> Table:
    """The table or figure that the job names.

    Raises:
        UserError: it names none, or two.
    """
    named = [name for name in ("table", "figure") if getattr(job, name) is not None]
    if len(named) != 1:
        raise UserError(
            f"table: {job.table}, figure: {job.figure}; name one, such as table=4, or a folder with results= "
            f"(there are: {', '.join(path.stem.replace('-', ' ', 1) for path in table_files())})"
        )
    if not job.seeds or len(set(job.seeds)) < len(job.seeds):
        raise UserError(f"seeds: {list(job.seeds)}; give at least one, and each once, such as seeds=[0,1,2]")
    table = read_table(f"{named[0]} {getattr(job, named[0])}")
    if unknown := [row for row in job.rows if row not in table.rows]:
        raise UserError(f"rows: {', '.join(unknown)} not in {table.name}; it has: {', '.join(table.rows)}")
    return table


def base_experiment(job: ReproduceJob) -> Experiment:
    """What the cells vary."""
    return with_absolute_paths(as_experiment(job))


def row_overrides(row: Row, job: ReproduceJob, runs: Mapping[str, str]) -> dict[str, Any] | None:
    """What a row changes, with runs and settings filled in; None while a run that it needs is missing.

    Args:
        row: of the paper.
        job: what `{setting: <key>}` reads.
        runs: row → its run, for `{run: <row>}`.
    """
    overrides = {}
    for key, value in row.changes.items():
        if isinstance(value, Mapping) and "run" in value:
            if value["run"] not in runs:
                return None
            overrides[key] = runs[value["run"]]
        elif isinstance(value, Mapping):
            overrides[key] = getattr(job, value["setting"])
        else:
            overrides[key] = value
    return overrides


def cells_of(table: Table, job: ReproduceJob, runs: Mapping[tuple[str, int], str] | None = None) -> list[Cell]:
    """The cells that can be run now, in order, each checked; those that need a run that is missing are left out.

    Args:
        table: of the paper.
        job: the base and the seeds.
        runs: (row, seed) → the run that others start from, as `training.start_from` takes it.

    Raises:
        UserError: the settings of a cell do not go together, or the data is wrong.
    """
    base, cache = base_experiment(job), Path(job.cache_dir).expanduser()
    if table.split == "test" and not base.training.test:
        raise UserError(f"training.test: false; {table.name} reports the test set: set it to true")
    cells = []
    for seed in job.seeds:
        of_seed = {row: run for (row, run_seed), run in (runs or {}).items() if run_seed == seed}
        for row in table.rows.values():
            changes = row_overrides(row, job, of_seed) if row.kind != "quoted" else None
            if changes is None:
                continue
            kind: Literal["laser", "recommender"] = "recommender" if row.kind == "recommender" else "laser"
            if kind == "laser":
                changes["training.seed"] = seed
            elif "seed" in type(with_overrides(base, changes).recommender).model_fields:
                changes["recommender.seed"] = seed
            config = with_absolute_paths(with_overrides(base, changes))
            dataset = prepare_dataset(config.data, cache)
            if kind == "recommender":
                dataset = dataset.trained_on(config.training.train_fraction, seed)
                key = recommender_key(config.recommender, dataset.fingerprint, cache)
            else:
                key = settings_key(config, dataset.fingerprint)
            cells.append(Cell(row.id, seed, kind, _differing(base, changes), config, dataset, key))
    return cells


def distinct(cells: Sequence[Cell]) -> list[Cell]:
    """The first cell of each key: rows that ask for the same run share it."""
    first: dict[str, Cell] = {}
    for cell in cells:
        first.setdefault(cell.key, cell)
    return list(first.values())


def cells_directory(job: ReproduceJob, dataset: Dataset) -> Path:
    """The directory of the cells over this base. It is the same for every table, so that tables share cells."""
    key = stage_key(job.name, settings_key(base_experiment(job), dataset.fingerprint))
    return Path(job.output_dir).expanduser().absolute() / "reproduction" / key


def _differing(base: Experiment, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes that differ from the base, and the seed, which names the run."""
    known = flatten(base)
    return {key: value for key, value in changes.items() if key == "training.seed" or known.get(key) != value}
