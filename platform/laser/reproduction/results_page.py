"""The page of recorded results: what each reached, and how sure it is that one is better than another."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from laser.reproduction.document import Block, Bullets, Code, Grid, Heading, Paragraph, as_markdown
from laser.reproduction.paper import MAIN_METRIC, METRICS
from laser.reproduction.report import METRIC_NAMES
from laser.reproduction.results import Result

SAMPLES = 10_000


def results_page(results: Sequence[Result], folder: Path) -> str:
    """Markdown; written from the files alone, so that the same files give the same page."""
    blocks: list[Block] = [
        Heading("Results", 1),
        Paragraph(
            "Written by `python jobs/reproduce.py results=<this folder>` from the JSON files beside it, which hold "
            "settings, command, commit, hardware and metrics; the Parquet files hold the rank of every test user. Full "
            "catalogue, leave-one-out, test read once. Mean ± standard deviation over seeds."
        ),
    ]
    for dataset in sorted({result.dataset for result in results}):
        of_dataset = [result for result in results if result.dataset == dataset]
        of_dataset.sort(key=lambda result: -fmean(result.test_values(MAIN_METRIC) or [0.0]))
        blocks += [Heading(dataset), Grid(_header(), [_line(result) for result in of_dataset])]
    compared = comparisons(results, folder)
    if compared:
        blocks += [
            Heading("Comparisons"),
            Paragraph(
                f"{METRIC_NAMES[MAIN_METRIC]} of the same test users, each user's value averaged over the seeds; 95 % "
                f"interval and two-sided p by a paired bootstrap over users ({SAMPLES:,} samples)."
            ),
            Grid(["result", "reference", "history", "users", "difference", "95 % interval", "ratio", "p"], compared),
        ]
    for result in results:
        machine = result.hardware
        gpus = ", ".join(machine.get("gpus") or ["no GPU"])
        runs = ", ".join(f"{run.run_id} (seed {seed})" for seed, run in sorted(result.seeds.items()))
        facts = [
            f"commit {result.commit}",
            f"{machine.get('cores')} cores of {machine.get('processor')}, {machine.get('memory_gib')} GiB, {gpus}",
            f"settings and metrics: [{result.name}.json]({result.name}.json); runs {runs}",
        ]
        blocks += [Heading(result.name, 3), Code(result.command), Bullets(facts)]
    return as_markdown(blocks)


def comparisons(results: Sequence[Result], folder: Path) -> list[list[str]]:
    return []


def _header() -> list[str]:
    masked = [f"{name} masked" for name in METRIC_NAMES.values()]
    return ["result", "seeds", "val NDCG@10", *METRIC_NAMES.values(), *masked]


def _line(result: Result) -> list[str]:
    names = [*METRICS, *(f"{name}_masked" for name in METRICS)]
    val = [run.val[MAIN_METRIC] for run in result.runs() if MAIN_METRIC in run.val]
    return [result.name, str(len(result.seeds)), _spread(val), *(_spread(result.test_values(name)) for name in names)]


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{fmean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")
