"""A benchmark: our baselines and Laser on one dataset, beside what others have published on it, each with its cost.

All choices are made on validation, by one rule for every dataset: a family's own grid (`laser.recommenders.baselines`)
for the baselines, and the base experiment as it is for Laser. The test set is read once, for what was chosen.
"""

import gc
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from laser.config.compose import flatten
from laser.config.families.recommenders import FamilySection, TextSection
from laser.config.jobs import ReferencesJob, ReproduceJob
from laser.config.schema import Experiment, PromptConfig
from laser.conversion.source import resolve_llm
from laser.data.dataset import Dataset
from laser.data.prompts import item_texts
from laser.engine.peak import peak_memory
from laser.evaluation.metrics import Ranks, rank_metric
from laser.evaluation.user_ranks import TEST_RANKS, UserRanks, read_ranks
from laser.forecast.cost import cell_cost
from laser.llm.loading import load_tokenizer
from laser.pages.document import as_html, as_markdown
from laser.pages.plots import as_file
from laser.recommenders.baselines import best_baseline
from laser.records.published import METRICS, read_published
from laser.records.record import add_result
from laser.reproduction.cells import base_experiment
from laser.reproduction.paper import Row, Table
from laser.reproduction.report.benchmark import Entry, as_json, benchmark_page, cost_figure, verdicts
from laser.reproduction.run import look_up, run_missing
from laser.sources.prepare import prepare_dataset
from laser.storage.files import short_name
from laser.tracking.interface import OpenRun, Store, StoredRun

LASER = "laser"
PEAK = "peak_mib"
"""Figure of a run: the most memory that its making took, its search included."""


Find = Callable[[str], OpenRun]
"""Run id → its run."""


def measure_benchmark(job: ReproduceJob, store: Store, find: Find, environment: Mapping[str, Any]) -> dict[str, Any]:
    """Make every system that is not stored yet, Laser last, and write the page.

    With `results`, the systems are recorded in that folder too.

    Raises:
        UserError: a setting or the data is wrong.
    """
    assert job.benchmark is not None
    base = base_experiment(job)
    dataset = prepare_dataset(base.data, Path(base.cache_dir).expanduser())
    place = Path(job.output_dir).expanduser().absolute() / f"benchmark-{job.benchmark}" / short_name(dataset.name)
    place.mkdir(parents=True, exist_ok=True)
    entries = [_baseline(job, base, family, dataset, store, find) for family in job.families]
    entries.append(_entry(job, Row(id=LASER, name="Laser", kind="laser"), base, 1, dataset, store, find))
    published = read_published(job.benchmark)
    name = published.dataset_of(dataset)
    rows, hardware = published.of(name), environment["hardware"]
    machine = f"{hardware['cores']} cores of {hardware['processor']}, {hardware['memory_gib']} GiB"
    facts = {"command": environment["command"], "commit": environment["commit"], "hardware": machine}
    blocks = benchmark_page(published, name, dataset.described(), entries, facts)
    (place / "report.md").write_text(as_markdown(blocks), encoding="utf-8")
    (place / "report.html").write_text(as_html(published.title, blocks), encoding="utf-8")
    (place / "cost.svg").write_text(as_file(cost_figure(entries, rows)), encoding="utf-8")
    content = as_json(entries, rows)
    (place / "report.json").write_text(json.dumps(content, indent=1) + "\n")
    recorded = []
    if job.results is not None:
        recorded = record_entries(job.results, dataset.name, entries)
    verdict = verdicts(entries[-1:], rows)
    return {"report": str(place / "report.html"), "data": dataset.facts(), "verdicts": verdict, "results": recorded}


def record_entries(results: str, dataset: str, entries: Sequence[Entry]) -> list[str]:
    """Record our systems as results of the folder, Laser with all others as its baselines. Return their names."""
    folder = Path(results).expanduser()
    names: list[str] = []
    for entry in entries:
        name = f"{dataset.lower()}-{entry.name}"
        others = tuple(reversed(names)) if entry.name == LASER else ()
        add_result(folder, name, [run for _, run in sorted(entry.runs.items())], others)
        names.append(name)
    return names


def _baseline(job: ReproduceJob, base: Experiment, family: str, dataset: Dataset, store: Store, find: Find) -> Entry:
    references = ReferencesJob(
        data=base.data,
        use_gpu=base.training.use_gpu,
        cache_dir=base.cache_dir,
        output_dir=base.output_dir,
    )
    gc.collect()  # of the row before
    with peak_memory() as peak:
        best = best_baseline(references, family, dataset)
    changes = {f"recommender.{key}": value for key, value in flatten(best.experiment.recommender).items()}
    row = Row(id=family, name=family, kind="recommender", changes=changes)
    return _entry(job, row, base, len(best.tries), dataset, store, find, peak.mib)


def _entry(
    job: ReproduceJob,
    row: Row,
    base: Experiment,
    tries: int,
    dataset: Dataset,
    store: Store,
    find: Find,
    searched_mib: float | None = None,
) -> Entry:
    """Run what is missing of one row, and read what it gave."""
    table = Table(name=f"benchmark {job.benchmark}", title="", claim="", rows={row.id: row})
    before = look_up(job, table, store)
    gc.collect()
    with before.sweep.running(), peak_memory() as peak:
        after = run_missing(before, store)
    runs = {cell.seed: after.stored[cell.key] for cell in after.cells if cell.key in after.stored}
    if not runs:
        raise RuntimeError(f"{row.id}: the runs of all seeds failed; the messages above say why")
    new = {cell.seed for cell in before.missing}
    if peak.mib is not None:
        for seed in new & runs.keys():
            find(runs[seed].run_id).summarise({PEAK: max(peak.mib, searched_mib or 0.0)})
    ranks = [_ranks(run) for _, run in sorted(runs.items())]
    figures = [run.figures("") for _, run in sorted(runs.items())]
    section = after.cells[0].config.recommender
    tokens = _text_tokens(section, dataset, Path(base.cache_dir).expanduser())
    if row.kind == "laser":
        cost = cell_cost(base, dataset, None)
        tokens += cost.train_tokens + cost.read_tokens
    return Entry(
        name=row.id,
        runs=runs,
        shown=[_metrics(one.ranks) for one in ranks],
        masked=[_metrics(one.masked) for one in ranks],
        seconds=fmean(one.get("seconds", 0.0) for one in figures) if figures else 0.0,
        tries=tries,
        parameters=int(max((one.get("trainable_parameters", 0) for one in figures), default=0)),
        statistics=int(max((one.get("statistics", 0) for one in figures), default=0)),
        tokens=tokens,
        memory_mib=max((one[PEAK] for one in (run.figures("") for run in runs.values()) if PEAK in one), default=None),
    )


def _ranks(run: StoredRun) -> UserRanks:
    with tempfile.TemporaryDirectory() as temporary:
        return read_ranks(run.fetch("ranks", Path(temporary)) / TEST_RANKS.name)


def _metrics(ranks: Ranks) -> dict[str, float]:
    """Return the metrics of `published.METRICS`: at 5, 10 and 50."""
    return {metric: float(rank_metric(metric)(ranks).mean()) for metric in METRICS}


def _text_tokens(section: FamilySection, dataset: Dataset, cache: Path) -> int:
    """Return the tokens of the item texts that a recommender, or a part of it, has a model read."""
    of_parts = sum(_text_tokens(part, dataset, cache) for part in section.parts.values())
    if not isinstance(section, TextSection):
        return of_parts
    tokenizer = load_tokenizer(resolve_llm(section.text_source, cache))
    texts = item_texts(dataset.items, dataset.item_attributes)
    limit = PromptConfig().max_item_tokens
    return of_parts + sum(len(ids) for ids in tokenizer(texts, truncation=True, max_length=limit)["input_ids"])
