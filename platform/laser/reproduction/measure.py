"""Turns stored runs into the rows of a report, and says what a reader must know of them."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from laser.config.fields import marked
from laser.config.identity import as_experiment, changed_settings
from laser.config.jobs import ReproduceJob
from laser.config.marks import HOW_IT_RUNS, LABEL, PAPER_SEQUENCE, REPORTED_APART
from laser.config.schema import Experiment
from laser.data.dataset import Dataset
from laser.evaluation.metrics import SELECTION_METRIC
from laser.evaluation.significance import Comparison, compare_seeds
from laser.evaluation.user_ranks import UserRanks, read_ranks
from laser.reproduction.cells import base_experiment
from laser.reproduction.paper import LASER, Table, read_paper
from laser.reproduction.report.tables import Surroundings
from laser.reproduction.rows import COSTS, Measured
from laser.reproduction.run import Reproduction, metrics_prefix
from laser.tracking.interface import StoredRun


def measured_rows(reproduction: Reproduction) -> list[Measured]:
    """The rows of the table with the paper's numbers and those of the stored runs."""
    table, prefix = reproduction.table, metrics_prefix(reproduction.table)
    paper_dataset = table.dataset or reproduction.job.paper_dataset
    runs: dict[str, dict[int, StoredRun]] = {}
    for cell in reproduction.cells:
        if cell.key in reproduction.stored:
            runs.setdefault(cell.row, {})[cell.seed] = reproduction.stored[cell.key]
    rows = []
    for row in table.rows.values():
        if row.kind == "hidden":
            continue
        of_row = runs.get(row.id, {})
        figures = [run.figures("") for run in of_row.values()]
        costs = {name: [one[name] for one in figures if name in one] for name in ("seconds", *COSTS)}
        means = {name: fmean(values) for name, values in costs.items() if values}
        rows.append(
            Measured(
                id=row.id,
                name=row.name,
                reference=row.reference,
                paper=row.paper_metrics(paper_dataset),
                ours={seed: run.figures(prefix) for seed, run in of_row.items()},
                runs={seed: run.run_id for seed, run in of_row.items()},
                paper_difference=row.paper_difference.get(paper_dataset),
                x=row.x,
                seconds=means.pop("seconds", None),
                costs=means,
            )
        )
    return rows


def row_significance(reproduction: Reproduction) -> dict[str, Comparison]:
    """Row → the comparison with its reference row, by a paired bootstrap over test users.

    The metric is the one that selects, and a user's value is the mean over the seeds of which both rows have ranks.
    Rows without such a pair are left out, and so are tables of validation.
    """
    if reproduction.table.split != "test":
        return {}
    pairs: dict[str, list[tuple[UserRanks, UserRanks]]] = {}
    runs = {(cell.row, cell.seed): reproduction.stored.get(cell.key) for cell in reproduction.cells}
    with tempfile.TemporaryDirectory() as temporary:
        read: dict[str, UserRanks] = {}
        for (row, seed), run in runs.items():
            other = runs.get((reproduction.table.rows[row].reference or "", seed))
            if run is None or other is None or not (run.has("ranks") and other.has("ranks")):
                continue
            for one in (run, other):
                if one.run_id not in read:
                    place = Path(temporary) / one.run_id
                    place.mkdir()
                    read[one.run_id] = read_ranks(one.fetch("ranks", place) / "test.parquet")
            pairs.setdefault(row, []).append((read[run.run_id], read[other.run_id]))
    return {
        row: compare_seeds([ours for ours, _ in of_row], [theirs for _, theirs in of_row], SELECTION_METRIC)
        for row, of_row in pairs.items()
    }


def surroundings(
    job: ReproduceJob, table: Table, dataset: Dataset, runs: Mapping[str, StoredRun], environment: Mapping[str, Any]
) -> Surroundings:
    """What the numbers depend on besides the rows.

    Args:
        job: the base.
        table: of the paper.
        dataset: the base's data.
        runs: the stored runs, by key.
        environment: of this process (`laser.tracking.environment`): hardware, commit and command.
    """
    base = base_experiment(job)
    commits = sorted({run.tags().get("commit", "unknown") for run in runs.values()} or {str(environment["commit"])})
    hardware = environment["hardware"]
    machine = f"{hardware['cores']} cores of {hardware['processor']}, {hardware['memory_gib']} GiB"
    gpus = f", {', '.join(hardware['gpus'])}" if hardware["gpus"] else ", no GPU"
    return Surroundings(
        dataset=f"{dataset.name} ({_counts(dataset)})",
        paper_dataset=table.dataset or job.paper_dataset,
        llm=_llm(base),
        seeds=job.seeds,
        command=environment["command"],
        commits=[commit[:17] for commit in commits],
        hardware=f"{machine}{gpus} (of the report; each run names its own)",
        warnings=warnings(job, table, dataset, commits),
        settings=differing_settings(base),
    )


def warnings(job: ReproduceJob, table: Table, dataset: Dataset, commits: list[str]) -> list[str]:
    """One sentence for each thing in which our experiment is not the paper's."""
    base, paper = base_experiment(job), read_paper()
    if table.source != LASER:
        return [f"data, model and settings are ours, not those of {table.source}.", *_of_runs(job, commits)]
    training = base.training
    found = []
    theirs = paper.datasets[job.paper_dataset]
    if theirs != {name: getattr(dataset, name) for name in theirs}:
        found.append(
            f"the data is {dataset.name} with {_counts(dataset)}; the paper's {job.paper_dataset} has "
            f"{theirs['num_users']:,} users, {theirs['num_items']:,} items, "
            f"{theirs['num_interactions']:,} interactions."
        )
    found.append(
        f"the language model is {_llm(base)}; the paper's is {paper.model['llm']} with {paper.model['blocks']} blocks "
        f"of width {paper.model['width']}."
    )
    if table.counts:
        return found
    for what, number in (("trains", training.train_users), ("validates", training.validation_users)):
        if number is not None and number < dataset.num_users:
            found.append(f"it {what} on a sample of {number} users; the paper on all.")
    settings, sequence = differing_settings(base), marked(Experiment, PAPER_SEQUENCE)
    fewer = [f"{key.rpartition('.')[2]} {settings[key]}" for key in sequence if key in settings]
    if fewer:
        found.append(
            f"the schedule differs: {', '.join(fewer)}; the paper: 15 epochs of stage 1, 5 of stage 2, batch 4."
        )
    if "recommender.type" in settings:
        found.append(f"the recommender under the M-Former is {base.recommender.type}; the paper's is bert4rec.")
    others = [key for key in settings if key not in sequence and not key.startswith(("data.", "llm.", "recommender."))]
    if others:
        found.append(f"{len(others)} more settings differ; they are listed below.")
    return found + _of_runs(job, commits)


def _of_runs(job: ReproduceJob, commits: list[str]) -> list[str]:
    found = []
    if len(job.seeds) < 3:
        found.append(f"{len(job.seeds)} seed{'s' * (len(job.seeds) > 1)}: differences between rows may be chance.")
    if len(commits) > 1:
        found.append(f"the runs come from {len(commits)} commits of the code.")
    if any(commit.endswith("-dirty") for commit in commits):
        found.append("some runs come from code with changes that are not committed.")
    return found


def differing_settings(base: Experiment) -> dict[str, Any]:
    """The settings that differ from the schema's defaults, which are the paper's, without how and where it runs."""
    changed = changed_settings(as_experiment(base))
    known, left_out = {"recommender.type": "bert4rec"}, marked(Experiment, HOW_IT_RUNS, LABEL, REPORTED_APART)
    return {key: value for key, value in changed.items() if key not in left_out and known.get(key) != value}


def _llm(config: Experiment) -> str:
    layers = f", its first {config.llm.num_layers} blocks" if config.llm.num_layers else ""
    return f"{config.llm.source}{layers}"


def _counts(dataset: Dataset) -> str:
    return f"{dataset.num_users:,} users, {dataset.num_items:,} items, {dataset.num_interactions:,} interactions"
