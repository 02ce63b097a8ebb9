"""The page of recorded results: what each reached, and how sure it is that it is better than its baselines."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from laser.evaluation.lists import LIST_METRICS
from laser.evaluation.metrics import RANK_METRICS, SELECTION_METRIC, masked_name, title
from laser.pages.document import Block, Bullets, Code, Grid, Heading, Paragraph, as_markdown
from laser.pages.plots import as_file, bars
from laser.records.claims import Verdict, sentences
from laser.records.published import IN_ALL, Numbers, published_files, quality_and_weights, read_published
from laser.records.reports import conclusions
from laser.records.results import COSTS, SAMPLES, Result, compared, paired_ranks


def results_page(results: Sequence[Result], folder: Path, verdicts: Sequence[Verdict] = ()) -> str:
    """Write the page as Markdown, from the files alone: the same files give the same page."""
    blocks: list[Block] = [
        Heading("Results", 1),
        Paragraph(
            "Written by `python jobs/reproduce.py results=<this folder>` from the JSON files beside it, which hold "
            "settings, command, commit, hardware and metrics; the Parquet files hold the rank of every test user. Full "
            "catalogue, leave-one-out, test read once. Mean ± standard deviation over seeds."
        ),
    ]
    if verdicts:
        blocks += [
            Heading("Claims"),
            Paragraph(
                "Each claim of claims.yaml, checked on the ranks of the same test users; "
                "[claims.json](claims.json) names the files. In brackets: in how many of its ways it holds, in every "
                "seed with p < .01. The ways are metrics, history shown or masked, and published rows."
            ),
            Bullets(sentences(verdicts)),
        ]
    for dataset, of_dataset in by_dataset(results).items():
        figure = Paragraph(f"![{title(SELECTION_METRIC)} of {dataset}]({figure_name(dataset)})")
        blocks += [Heading(dataset), figure, _grid(of_dataset)]
        costly = [result for result in of_dataset if any(result.cost(name) is not None for name in COSTS)]
        if costly:
            blocks += [
                Paragraph(
                    "What each took to make and test once, mean over the seeds, on the machine that stands below; what "
                    "was cached took its time before. Counted numbers are those that a fit without gradients takes "
                    "from the data."
                ),
                _costs(costly),
            ]
        if published_rows(dataset):
            blocks.append(Paragraph(f"![Quality against cost, {dataset}]({figure_name(dataset, '-cost')})"))
    lines = conclusions(folder)
    if lines:
        blocks += [
            Heading("Reports of tables"),
            Paragraph(
                "How rows compare, by the 95 % interval over the seeds; of one seed there is none. Over users: the "
                "95 % interval of the mean over the seeds, by a paired bootstrap."
            ),
            Bullets(lines),
        ]
    compared = comparisons(results, folder)
    if compared:
        blocks += [
            Heading("Comparisons"),
            Paragraph(
                f"{title(SELECTION_METRIC)} of the same test users: 95 % interval and two-sided p by a paired "
                f"bootstrap over users ({SAMPLES:,} samples), seed by seed; a baseline of one seed is compared "
                "with every seed."
            ),
            Grid(["result", "baseline", "history", "difference", "95 % interval", "ratio", "p"], compared),
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


def by_dataset(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return the results of each dataset, the best first."""
    ordered = sorted(results, key=lambda result: -fmean(result.test_values(SELECTION_METRIC) or [0.0]))
    names = sorted({result.dataset for result in results})
    return {name: [result for result in ordered if result.dataset == name] for name in names}


def results_figures(results: Sequence[Result]) -> dict[str, str]:
    """Draw the selection metric on the test users, a figure for each dataset: file name → SVG."""
    figures = {}
    for dataset, of_dataset in by_dataset(results).items():
        values = [result.test_values(SELECTION_METRIC) for result in of_dataset]
        labels = [result.name.removeprefix(f"{figure_name(dataset).removesuffix('.svg')}-") for result in of_dataset]
        name = f"{title(SELECTION_METRIC)} of the test users, {dataset}"
        means = [fmean(of_seeds) if of_seeds else None for of_seeds in values]
        spread = [stdev(of_seeds) if len(of_seeds) > 1 else None for of_seeds in values]
        figures[figure_name(dataset)] = as_file(bars(labels, {name: means}, {name: spread}, name))
        published = published_rows(dataset)
        if published:
            figures[figure_name(dataset, "-cost")] = as_file(_cost_figure(labels, of_dataset, published))
    return figures


def figure_name(dataset: str, what: str = "") -> str:
    """Return the file name of a dataset's figure."""
    return f"{dataset.lower().replace('_', '-')}{what}.svg"


def published_rows(dataset: str) -> Numbers:
    """Return what others have published on a dataset, from all files."""
    return [row for path in published_files() for row in read_published(path.stem).of(dataset)]


def _cost_figure(labels: Sequence[str], results: Sequence[Result], published: Numbers) -> str:
    known = [
        (label, result, result.cost("trainable_parameters")) for label, result in zip(labels, results, strict=True)
    ]
    ours = [
        (label, weights, fmean(result.test_values(IN_ALL)))
        for label, result, weights in known
        if weights is not None and result.test_values(IN_ALL)
    ]
    return quality_and_weights(ours, published, f"{title(IN_ALL)}, history shown")


def comparisons(results: Sequence[Result], folder: Path) -> list[list[str]]:
    """Rows for each result, baseline and seed of which both have ranks: history among the candidates, and masked."""
    rows = []
    by_name = {result.name: result for result in results}
    for result in results:
        for baseline in result.references:
            for mine, theirs, seed in paired_ranks(result, by_name[baseline]):
                found = compared(folder / mine, folder / theirs)
                for metric, history in ((SELECTION_METRIC, "shown"), (masked_name(SELECTION_METRIC), "masked")):
                    beside = found[metric]
                    ratio = f"{beside.ours / beside.theirs:.3f}" if beside.theirs else ""
                    interval = f"{beside.low:+.4f} … {beside.high:+.4f}"
                    p = f"{beside.p_value:.4f}"
                    name = f"{result.name}, seed {seed}"
                    rows.append([name, baseline, history, f"{beside.difference:+.4f}", interval, ratio, p])
    return rows


def _grid(results: Sequence[Result]) -> Grid:
    """One line for each result. Metrics of lists stand there if a result has any: the older ones have none."""
    of_lists = [name for name in LIST_METRICS if any(result.test_values(name) for result in results)]
    metrics = {name: title(name) for name in RANK_METRICS}
    metrics |= {masked_name(name): f"{title(name)} masked" for name in RANK_METRICS}
    metrics |= {name: title(name) for name in of_lists}
    lines = []
    for result in results:
        val = [run.val[SELECTION_METRIC] for run in result.runs() if SELECTION_METRIC in run.val]
        test = [_spread(result.test_values(name)) for name in metrics]
        lines.append([result.name, str(len(result.seeds)), _spread(val), *test])
    return Grid(["result", "seeds", f"val {title(SELECTION_METRIC)}", *metrics.values()], lines)


def _costs(results: Sequence[Result]) -> Grid:
    lines = []
    for result in results:
        costs = [result.cost(name) for name in COSTS]
        lines.append([result.name, *("" if cost is None else f"{cost:,.0f}" for cost in costs)])
    return Grid(["result", *COSTS.values()], lines)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{fmean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")
