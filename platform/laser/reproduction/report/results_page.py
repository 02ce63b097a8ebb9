"""The page of recorded results: what each reached, and how sure it is that one is better than another."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from laser.evaluation.significance import compare
from laser.evaluation.user_ranks import read_ranks
from laser.reproduction.paper import MAIN_METRIC, METRICS
from laser.reproduction.report.document import Block, Bullets, Code, Grid, Heading, Paragraph, as_markdown
from laser.reproduction.report.tables import METRIC_NAMES
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
    reports = [path.relative_to(folder) for path in sorted(folder.glob("*/report.md"))]
    if reports:
        blocks += [
            Heading("Reports of tables"),
            Bullets([f"[{report.parent}]({report}), as a page with plots beside it" for report in reports]),
        ]
    compared = comparisons(results, folder)
    if compared:
        blocks += [
            Heading("Comparisons"),
            Paragraph(
                f"{METRIC_NAMES[MAIN_METRIC]} of the same test users: 95 % interval and two-sided p by a paired "
                f"bootstrap over users ({SAMPLES:,} samples), seed by seed; a reference of one seed stands beside "
                "every seed."
            ),
            Grid(["result", "reference", "history", "difference", "95 % interval", "ratio", "p"], compared),
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
    """A row for each result, reference and seed that both have ranks of, history among the candidates and masked."""
    rows = []
    by_name = {result.name: result for result in results}
    for result in results:
        for reference in result.references:
            for mine, theirs, seed in _paired(result, by_name[reference]):
                found = compare(read_ranks(folder / mine), read_ranks(folder / theirs), SAMPLES)
                for metric, history in ((MAIN_METRIC, "shown"), (f"{MAIN_METRIC}_masked", "masked")):
                    beside = found[metric]
                    ratio = f"{beside.ours / beside.theirs:.3f}" if beside.theirs else ""
                    interval = f"{beside.low:+.4f} … {beside.high:+.4f}"
                    p = f"{beside.p_value:.4f}"
                    name = f"{result.name}, seed {seed}"
                    rows.append([name, reference, history, f"{beside.difference:+.4f}", interval, ratio, p])
    return rows


def _paired(result: Result, reference: Result) -> list[tuple[str, str, str]]:
    """Files of ranks of both, by seed; a reference of a single seed stands beside every one."""
    pairs = []
    for seed, run in sorted(result.seeds.items()):
        other = reference.seeds.get(seed) or (reference.runs()[0] if len(reference.seeds) == 1 else None)
        if other is not None and run.ranks is not None and other.ranks is not None:
            pairs.append((run.ranks, other.ranks, seed))
    return pairs


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
