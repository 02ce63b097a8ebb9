"""Fills a leaderboard: makes the baselines of a job, compares runs of any kind, and records what came of it."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from laser.config.compose import load_config, with_overrides
from laser.config.identity import recommender_tags
from laser.config.jobs import CompareJob, ReferencesJob
from laser.config.schema import Experiment
from laser.data.dataset import Dataset
from laser.errors import UserError
from laser.evaluation.user_ranks import TEST_RANKS
from laser.pages.document import as_html, as_markdown
from laser.recommenders.baselines import Baseline
from laser.reproduction.comparison import System, check_comparable, compare_systems, read_systems
from laser.reproduction.report.comparison import comparison_page
from laser.sources.prepare import prepare_dataset
from laser.storage.files import write_json, write_whole
from laser.tracking.interface import OpenRun, Records, StoredRun
from laser.training.run.directory import remember_run, remembered_run

logger = logging.getLogger(__name__)


def laser_experiments(job: ReferencesJob) -> list[Experiment]:
    """Read the experiments of Laser that the job names, and give them the job's data, folders and store.

    Raises:
        UserError: a file is missing or wrong, a folder holds none, or two have the same name.
    """
    own = job.model_dump(mode="json", include={"data", "cache_dir", "output_dir", "tracking"})
    own |= {"training.test": True, **({"training.use_gpu": True} if job.use_gpu else {})}
    experiments: dict[str, Experiment] = {}
    for file in experiment_files(job.laser):
        name = file.stem
        if name in experiments:
            raise UserError(f"laser: {file}: another file is called {name} too, and runs are named so; rename one")
        try:
            experiments[name] = with_overrides(load_config(Experiment, [f"config={file}"], None), {**own, "name": name})
        except UserError as error:
            reason = str(error).removeprefix("config: ").removeprefix(f"{file}: ")
            raise UserError(f"laser: {file}: {reason}") from error
    return list(experiments.values())


def experiment_files(named: Sequence[str]) -> list[Path]:
    """Return the files that are named, and in place of a folder the experiments that lie in it, by their names.

    A file `_<name>.yaml` is there for others to extend, and is no experiment.

    Raises:
        UserError: a folder holds no experiment.
    """
    files = []
    for place in (Path(text).expanduser() for text in named):
        found = [place]
        if place.is_dir():
            found = sorted(file for file in place.glob("*.yaml") if not file.name.startswith(("_", ".")))
        if not found:
            raise UserError(
                f"laser: {place}: no experiment lies in this folder; name files, or a folder with <name>.yaml for each "
                "(_<name>.yaml are there to be extended)"
            )
        files += found
    return files


def record_baseline(
    baseline: Baseline, dataset: Dataset, directory: Path, tracking: Records, environment: Mapping[str, Any]
) -> OpenRun:
    """Write a baseline into a folder of its own, named by its settings, and record it as a run of kind `reference`.

    The same baseline has the same folder and run in each call.

    Args:
        baseline: a family at its best settings.
        dataset: what it was made of.
        directory: the folder of all baselines of these data.
        tracking: the store of the run.
        environment: goes into `result.json`.
    """
    experiment = baseline.experiment
    cache = Path(experiment.cache_dir).expanduser()
    tags = recommender_tags(experiment.recommender, dataset.name, dataset.fingerprint, cache)
    tags["data"], place = dataset.described(), directory / tags["settings_key"]
    with tracking.run(experiment, "reference", baseline.family, tags, remembered_run(place)) as run:
        remember_run(place, run.run_id)
        baseline.write(place, environment)
        run.summarise(baseline.figures())
        run.log_json(baseline.tries, "tries.json")
        if (place / TEST_RANKS).is_file():
            run.log_directory((place / TEST_RANKS).parent, "ranks")
    return run


def run_summary(run: StoredRun) -> dict[str, Any]:
    """Return what a job's summary says of a run."""
    val, test, seconds = run.figures("best/"), run.figures("test/"), run.figures("").get("seconds")
    return {"run_id": run.run_id, "val": val, "test": test or None, "seconds": seconds}


def write_leaderboard(
    job: ReferencesJob, runs: Sequence[StoredRun], directory: Path, tracking: Records
) -> dict[str, Any] | None:
    """Compare what a call has made, as `leaderboard.html`, `.md` and `.json` in a folder.

    Args:
        job: its store and cache.
        runs: of the baselines and of Laser; those without ranks of test users are left out.
        directory: the page's folder.
        tracking: the store of the comparison's run.

    Returns:
        The comparison's run, page and systems; None where there are not two systems to compare.
    """
    systems = read_systems([run for run in runs if run.has(TEST_RANKS.parent.name)])
    if len(systems) < 2:
        logger.info(
            "no leaderboard: it takes two systems with ranks of test users, and there are %d; name more families, or "
            "an experiment by laser=[<file>]",
            len(systems),
        )
        return None
    compare = CompareJob(
        runs=tuple(system.run_id for system in systems),
        output=str(directory / "leaderboard.html"),
        tracking=job.tracking,
        cache_dir=job.cache_dir,
    )
    board = record_comparison(compare, systems, tracking)
    logger.info("leaderboard of %d systems: %s", len(systems), board["page"])
    return {name: board[name] for name in ("run_id", "page", "systems")}


def record_comparison(job: CompareJob, systems: Sequence[System], tracking: Records) -> dict[str, Any]:
    """Compare systems, write the page as HTML and Markdown and the figures as JSON, and record all three as a run.

    Args:
        job: what to measure, and the page's place.
        systems: two at least.
        tracking: the store of the new run, whose kind is `compare`.

    Returns:
        What a job's summary says of it: the new run, the page, the data, and the systems, best first.

    Raises:
        UserError: the systems are not measured in the same way.
    """
    check_comparable(systems)
    dataset = prepare_dataset(systems[0].experiment.data, Path(job.cache_dir).expanduser())
    comparison = compare_systems(systems, dataset, job)
    blocks, figures = comparison_page(comparison), comparison.figures()
    page = Path(job.output).expanduser()
    files = (page, page.with_suffix(".md"), page.with_suffix(".json"))
    page.parent.mkdir(parents=True, exist_ok=True)
    write_whole(files[0], as_html(f"Comparison on {dataset.name}", blocks))
    write_whole(files[1], as_markdown(blocks))
    write_json(files[2], figures)
    tags = {"dataset": dataset.name, "dataset_fingerprint": dataset.fingerprint}
    with (
        tracking.run(job, "compare", f"comparison on {dataset.name}", tags) as run,
        TemporaryDirectory() as to,
    ):
        for file in files:
            shutil.copy(file, to)
        run.log_directory(Path(to), "comparison")
    return {"run_id": run.run_id, "page": str(page.absolute()), "data": figures["data"], "systems": figures["systems"]}
