"""Runs the cells that are not there yet: as trials across a Ray cluster, or one after the other in this process."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laser.cluster.ray_private import check_temporary_folder
from laser.config.compose import flatten
from laser.config.fields import marked
from laser.config.identity import recommender_tags
from laser.config.jobs import ReproduceJob
from laser.config.marks import ARTIFACT
from laser.config.paths import check_places
from laser.config.schema import Experiment, SearchConfig, TuneExperiment
from laser.data.dataset import Dataset
from laser.errors import UserError
from laser.evaluation.metrics import SELECTION_METRIC
from laser.recommenders.pretraining import pretrained_recommender, pretraining_device
from laser.reproduction.cells import Cell, base_experiment, cells_directory, cells_of, distinct
from laser.reproduction.paper import Table
from laser.sources.prepare import prepare_dataset
from laser.storage.cache import make_once
from laser.tracking.interface import EPOCH, RunResults, Store, StoredRun
from laser.training.prepare import make_artifacts
from laser.training.run.history import read_history
from laser.training.run.outcome import run_results
from laser.training.train import run_tags
from laser.tuning.sweep import Sweep

logger = logging.getLogger(__name__)

NO_RESULTS = RunResults([], {}, {})


@dataclass(frozen=True)
class Reproduction:
    """A table, its cells, and what is stored of them."""

    job: ReproduceJob
    table: Table
    dataset: Dataset
    """The dataset of the base."""
    cells: list[Cell]
    """Cells that can be run; others wait for the run that they start from."""
    stored: dict[str, StoredRun]
    """Key of a cell → its run."""
    sweep: Sweep

    @property
    def missing(self) -> list[Cell]:
        """Cells to run, each once: those of the rows that the job asks for."""
        rows, table = self.job.rows, self.table.rows
        wanted = [cell for cell in self.cells if not rows or cell.row in rows or table[cell.row].kind == "hidden"]
        return [cell for cell in distinct(wanted) if cell.key not in self.stored]

    @property
    def waiting(self) -> list[str]:
        """Rows whose cells are not made yet, because they start from a run that is missing."""
        made = {cell.row for cell in self.cells}
        return [row.id for row in self.table.rows.values() if row.kind != "quoted" and row.id not in made]

    def state(self, cell: Cell) -> str:
        """`stored`, `<n> epochs done` of one that was interrupted, or `to run`."""
        if cell.key in self.stored:
            return "stored"
        rows = read_history(self.sweep.trial(cell.overrides).path).rows
        return f"{rows[-1][EPOCH]:.0f} epochs done" if rows else "to run"


def look_up(job: ReproduceJob, table: Table, store: Store) -> Reproduction:
    """Make the table's cells and find the runs that are there.

    Raises:
        UserError: a setting, a place or the data is wrong.
    """
    check_places(job)
    if job.training.num_workers:
        check_temporary_folder()
    dataset = prepare_dataset(base_experiment(job).data, Path(job.cache_dir).expanduser())
    sweep = Sweep(cells_directory(job, dataset))
    sweep.path.mkdir(parents=True, exist_ok=True)
    stored: dict[str, StoredRun] = {}
    cells = cells_of(table, job)
    stored |= _find(cells, table, store)
    starts = {
        (cell.row, cell.seed): str(_weights(stored[cell.key], sweep.path / "starts"))
        for cell in cells
        if table.rows[cell.row].kind == "hidden" and cell.key in stored
    }
    if starts:
        cells = cells_of(table, job, starts)
        stored |= _find(cells, table, store)
    return Reproduction(job, table, dataset, cells, stored, sweep)


def forget(reproduction: Reproduction, store: Store) -> None:
    """Forget all cells, so that they run anew: their runs are no longer found, their directories are removed."""
    for cell in distinct(reproduction.cells):
        store.supersede(cell.key)
        if cell.kind == "laser":
            shutil.rmtree(reproduction.sweep.trial(cell.overrides).path, ignore_errors=True)


def run_missing(reproduction: Reproduction, store: Store) -> Reproduction:
    """Run the missing cells, first those from which others start. A cell that fails is named and left out.

    Raises:
        UserError: data, LLM or a setting is wrong; raised before anything is trained.
    """
    failed: set[str] = set()  # it would fail again
    while missing := [cell for cell in reproduction.missing if cell.key not in failed]:
        logger.info("%s: %d cells to run", reproduction.table.name, len(missing))
        possible = _with_artifacts(missing)
        for cell in missing:
            if cell.kind == "recommender":
                _run_recommender(cell, store)
        trials = [cell for cell in possible if cell.kind == "laser"]
        if trials:
            _run_trials(reproduction, trials, store)
        reproduction = look_up(reproduction.job, reproduction.table, store)
        failed |= {cell.key for cell in missing} & {cell.key for cell in reproduction.missing}
    return reproduction


def _with_artifacts(cells: Sequence[Cell]) -> list[Cell]:
    """Make what the cells read, before any of them runs, and return those for which that could be made.

    Raises:
        UserError: data, LLM or a setting is wrong.
    """
    made: dict[str, bool] = {}
    for cell in cells:
        settings = _artifact_settings(cell.config)
        if settings in made:
            continue
        try:
            make_artifacts(cell.config)
            made[settings] = True
        except UserError:
            raise
        except Exception as error:  # a recommender that diverges, say
            logger.error("%s: %s: %s", cell.name, type(error).__name__, error)
            made[settings] = False
    return [cell for cell in cells if made[_artifact_settings(cell.config)]]


def _artifact_settings(config: Experiment) -> str:
    """Return what the artifacts of an experiment depend on: equal where they are the same."""
    artifact = marked(Experiment, ARTIFACT)
    return json.dumps({key: value for key, value in flatten(config).items() if key in artifact})


def _find(cells: Sequence[Cell], table: Table, store: Store) -> dict[str, StoredRun]:
    """Key → the latest finished run that has metrics of the table's split; one that was added since may be missing."""
    found: dict[str, StoredRun] = {}
    for cell in distinct(cells):
        for run in store.finished(cell.key):
            hidden = table.rows[cell.row].kind == "hidden"
            if hidden or SELECTION_METRIC in run.figures(metrics_prefix(table)):
                found[cell.key] = run
                break
    return found


def _weights(run: StoredRun, into: Path) -> Path:
    """The selected checkpoint of a run, for others to start from."""
    place = into / run.run_id
    make_once(place, lambda aside: run.fetch("checkpoint", aside))
    return place / "checkpoint"


def metrics_prefix(table: Table) -> str:
    """Under which name a run has the metrics of the table's split."""
    return "test/" if table.split == "test" else "best/"


def _run_recommender(cell: Cell, store: Store) -> None:
    cache, dataset = Path(cell.config.cache_dir), cell.dataset
    tags = recommender_tags(cell.config.recommender, dataset.name, dataset.fingerprint, cache)
    tags["data"] = dataset.described()
    run = store.start(cell.config, cell.name, tags, None)
    try:
        device = pretraining_device(cell.config.training.use_gpu)
        pretrained = pretrained_recommender(cell.config.recommender, dataset, cache, run.report, device=device)
    except KeyboardInterrupt:
        store.finish(run.run_id, "interrupted", NO_RESULTS, None)
        raise
    except Exception as error:
        logger.error("%s: %s: %s", cell.name, type(error).__name__, error)
        store.finish(run.run_id, "failed", NO_RESULTS, str(error))
        if isinstance(error, UserError):
            raise
    else:
        store.finish(run.run_id, "finished", pretrained.run_results(), None)


def _run_trials(reproduction: Reproduction, cells: Sequence[Cell], store: Store) -> None:
    job, base = reproduction.job, base_experiment(reproduction.job)
    trials: list[Mapping[str, Any]] = []
    for cell in cells:
        trial = reproduction.sweep.trial(cell.overrides)
        record = trial.record()
        if record is None or not record.is_final:
            trials.append(cell.overrides)
        else:  # it ended under another store of runs
            run = store.start(cell.config, trial.name, run_tags(cell.config, make_artifacts(cell.config)), trial.run_id)
            store.finish(run.run_id, record.state, run_results(trial.path), None)
    if not trials:
        return
    if base.training.num_workers == 0:
        from laser.tuning.serial import run_trials_here

        run_trials_here(base, trials, reproduction.sweep, store)
        return
    from laser.tuning.search import SearchPlan, run_search  # Ray only where it is used

    search = SearchConfig(max_concurrent_trials=job.max_concurrent_cells)
    config = TuneExperiment.model_validate({**base.model_dump(), "search": search})
    run_search(SearchPlan(config, base, {}, [dict(trial) for trial in trials], None), reproduction.sweep, store)
