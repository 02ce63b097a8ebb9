"""The report of a table: what was measured, beside what the paper prints. It knows rows; nothing of Ray or MLflow."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from laser.evaluation.lists import LIST_METRICS
from laser.evaluation.metrics import RANK_METRICS, SELECTION_METRIC, masked_name, selection_first, title
from laser.evaluation.significance import Comparison
from laser.pages.document import Block, Bullets, Code, Grid, Heading, Paragraph, Plot, Warnings
from laser.pages.plots import bars, lines, quality_and_cost
from laser.reproduction.paper import Count, Table
from laser.reproduction.rows import UNCLEAR, Measured, difference

OVER_USERS = "Over users: 95 % interval and p by paired bootstrap over test users, of each the mean over the seeds."
ADAM_BYTES = 8
"""Of the two moments of a trained number, float32."""


@dataclass(frozen=True)
class Surroundings:
    """What the numbers depend on besides the rows."""

    dataset: str
    paper_dataset: str
    llm: str
    seeds: Sequence[int]
    command: str
    commits: Sequence[str]
    hardware: str
    warnings: Sequence[str]
    """Where this differs from the paper's setting."""
    settings: Mapping[str, Any]
    """The base's settings that differ from the paper's."""


def table_report(
    table: Table,
    rows: Sequence[Measured],
    around: Surroundings,
    significance: Mapping[str, Comparison] | None = None,
) -> list[Block]:
    """The report of a table or figure of runs.

    Args:
        table: what the paper prints.
        rows: of it, in order, with what was measured.
        around: what the numbers depend on.
        significance: row → its comparison with its reference by the metric that selects, over users.
    """
    split = {"val": "validation", "test": "test"}[table.split]
    blocks = _head(table, around)
    blocks += [
        Heading("The paper's numbers and ours"),
        Paragraph(
            f"{split.capitalize()} set, full catalogue, history not masked. Paper: on {around.paper_dataset}. Ours: on "
            f"{around.dataset}, mean ± standard deviation over seeds {_listed(around.seeds)}. Differences (Δ) are in "
            "percent of the row that stands under reference, in the paper and here; ± is the standard error "
            f'over the seeds. "{UNCLEAR}": 0 is in the 95 % interval over the seeds.'
            + (f" {OVER_USERS}" if significance else "")
        ),
    ]
    for metric in selection_first():
        blocks += [Heading(title(metric), 3), _metric_grid(rows, metric, significance or {})]
    masked = {masked_name(name): title(name) for name in RANK_METRICS}
    text = "Items of the user's own history are no candidates; the paper does not report this."
    blocks += _extra_metrics(rows, masked, "With the history masked", text)
    of_lists = {name: title(name) for name in LIST_METRICS}
    text = "The items of each user's best scores, history not masked; the paper does not report this."
    blocks += _extra_metrics(rows, of_lists, "Recommended lists", text)
    if table.costs:
        blocks += _costs(rows)
    blocks += _drawing(table, rows)
    blocks += [Heading("Runs"), _run_grid(rows)]
    missing = [row.name for row in rows if not row.ours and not row.paper]
    if missing:
        blocks.append(Paragraph(f"Not measured: {_listed(missing)}."))
    return blocks


def count_report(
    table: Table, counts: Mapping[str, int], paper_size: Mapping[str, int], around: Surroundings
) -> list[Block]:
    """The report of Table 3.

    Args:
        table: what the paper prints.
        counts: way of tuning → trainable parameters, of our LLM; also `laser`, with its M-Former.
        paper_size: the same for a model of the paper's width.
        around: what the numbers depend on.
    """
    rows = [
        [count.name, count.of, f"{count.paper:g} M", _millions(paper_size.get(name)), _millions(counts.get(name))]
        for name, count in table.counts.items()
    ]
    rows.append(["Laser with its M-Former", "", "", _millions(paper_size.get("laser")), _millions(counts["laser"])])
    reference: Count = table.counts["bituning"]
    ratio = table.counts["qlora"].paper / reference.paper
    return [
        *_head(table, around),
        Heading("Trainable parameters"),
        Grid(["way of tuning", "the paper's model", "paper", "counted at width 4096", f"of {around.llm}"], rows),
        Paragraph(
            "Counted on the models' shapes, no weights needed. At width 4096 only Bi-Tuning and Laser are counted: the "
            f"other rows are of other models. QLoRA over Bi-Tuning: {ratio:.0f} times in the paper, "
            f"{counts['qlora'] / counts['bituning']:.1f} times here. The paper's count of Bi-Tuning leaves out the "
            "M-Former, which Laser trains too."
        ),
    ]


def rows_as_json(
    table: Table, rows: Sequence[Measured], around: Surroundings, significance: Mapping[str, Comparison]
) -> dict[str, Any]:
    """The report as data: rows with their numbers, and their differences in the metric that selects."""
    listed = [
        {
            **asdict(row),
            "difference": asdict(difference(row, rows, SELECTION_METRIC)),
            "over_users": _over_users(significance.get(row.id)),
            "verdict": verdict(row, rows),
        }
        for row in rows
    ]
    return {"table": table.name, "split": table.split, "metric": SELECTION_METRIC, **asdict(around), "rows": listed}


def verdict(row: Measured, rows: Sequence[Measured]) -> str:
    """Whether the row's difference from its reference goes the paper's way, by the metric that selects."""
    return difference(row, rows, SELECTION_METRIC).verdict


def _head(table: Table, around: Surroundings) -> list[Block]:
    blocks: list[Block] = [
        Heading(f"{table.name.capitalize()}: {table.title}", 1),
        Paragraph(f"{table.source}. The paper's conclusion: {table.claim}"),
    ]
    if around.warnings:
        blocks.append(Warnings(around.warnings))
    blocks += [
        Bullets(
            [
                f"dataset: {around.dataset}",
                f"LLM: {around.llm}",
                f"commit: {_listed(around.commits) or 'unknown'}",
                f"hardware: {around.hardware}",
            ]
        ),
        Code(around.command),
    ]
    if around.settings:
        changed = "\n".join(f"{key}={value}" for key, value in around.settings.items())
        blocks += [
            Paragraph("Settings of the base that differ from the defaults, which are Laser's paper's:"),
            Code(changed),
        ]
    return blocks


def _extra_metrics(rows: Sequence[Measured], titles: Mapping[str, str], heading: str, text: str) -> list[Block]:
    """Further metrics (name → title) of the rows that have any of them; nothing where no row has."""
    having = [row for row in rows if any(row.values(name) for name in titles)]
    if not having:
        return []
    lines = [[row.name, *(_mean_text(row, name) for name in titles)] for row in having]
    return [Heading(heading, 3), Paragraph(text), Grid(["row", *titles.values()], lines)]


def _metric_grid(rows: Sequence[Measured], metric: str, significance: Mapping[str, Comparison]) -> Grid:
    header = ["row", "paper", "ours", "seeds", "reference", "paper Δ", "our Δ", "order"]
    header += ["over users", "p"] if significance and metric == SELECTION_METRIC else []
    names = {row.id: row.name for row in rows}
    lines = []
    for row in rows:
        beside = difference(row, rows, metric)
        error = f" ± {beside.error:.1f}" if beside.error is not None else ""
        lines.append(
            [
                row.name,
                _number(row.paper.get(metric)),
                _mean_text(row, metric),
                str(len(row.values(metric)) or ""),
                names.get(row.reference or "", ""),
                "" if beside.paper is None else f"{beside.paper:+.1f} %",
                "" if beside.ours is None else f"{beside.ours:+.1f}{error} %",
                beside.verdict,
            ]
        )
        if len(header) > 8:
            found = _over_users(significance.get(row.id))
            lines[-1] += [f"{found['low']:+.1f} … {found['high']:+.1f} %", f"{found['p']:.4f}"] if found else ["", ""]
    return Grid(header, lines)


def _over_users(beside: Comparison | None) -> dict[str, float] | None:
    """The 95 % interval of a difference in percent of the reference, and p."""
    if beside is None or not beside.theirs:
        return None
    low, high = (100 * bound / beside.theirs for bound in (beside.low, beside.high))
    return {"low": low, "high": high, "p": beside.p_value}


def _costs(rows: Sequence[Measured]) -> list[Block]:
    """What each row costs, and a point for each at its quality."""
    shown = [row for row in rows if row.ours]
    cells = []
    for row in shown:
        parameters = row.costs.get("trainable_parameters", 0.0)
        cells.append([
            row.name, f"{parameters:,.0f}", f"{ADAM_BYTES * parameters / 1e6:.2f}",
            *(f"{row.costs[name]:.1f}" if name in row.costs else "" for name in ("train_seconds", "peak_mib")),
            _number(row.costs.get("loss/contrastive")),
            _mean_text(row, SELECTION_METRIC),
        ])  # fmt: skip
    header = ["row", "trained numbers", "optimizer, MB", "seconds an epoch", "peak, MiB", "training loss"]
    text = (
        "Trained numbers are all that steps change, head included; Adam keeps two moments of each, in float32. Time, "
        "peak memory and training loss are those of the last epoch; the peak is that of the process, with libraries "
        "and data."
    )
    points = [
        (row.name, ADAM_BYTES * row.costs.get("trainable_parameters", 0.0), mean)
        for row in shown
        if (mean := row.mean(SELECTION_METRIC)) is not None
    ]
    plot = quality_and_cost(points, [], [], "bytes of the optimizer", title(SELECTION_METRIC))
    return [
        Heading("Cost"), Paragraph(text), Grid([*header, title(SELECTION_METRIC)], cells),
        Plot(plot, f"{title(SELECTION_METRIC)} of each row against the bytes of its optimizer"),
    ]  # fmt: skip


def _drawing(table: Table, rows: Sequence[Measured]) -> list[Block]:
    if any(row.x is not None for row in rows):
        series: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            mean = row.mean(SELECTION_METRIC)
            if mean is not None and row.x is not None:
                series.setdefault(row.name.partition(",")[0], []).append((row.x, mean))
        plot = lines(series, "training users in percent", title(SELECTION_METRIC)) if series else ""
        return [Plot(plot, f"{title(SELECTION_METRIC)} over the share of the target's training users")] if plot else []
    beside = {row.id: difference(row, rows, SELECTION_METRIC) for row in rows if row.reference}
    shown = [row for row in rows if row.id in beside and (beside[row.id].paper, beside[row.id].ours) != (None, None)]
    if not shown:
        return []
    series_of = {
        "paper": [beside[row.id].paper for row in shown],
        "ours": [beside[row.id].ours for row in shown],
    }
    errors = {"ours": [beside[row.id].error for row in shown]}
    labels = [row.name for row in shown]
    plot = bars(labels, series_of, errors, f"{title(SELECTION_METRIC)}: difference from the reference row in percent")
    return [
        Plot(plot, "difference of each row from its own reference, in the paper and here; whiskers: standard error")
    ]


def _run_grid(rows: Sequence[Measured]) -> Grid:
    return Grid(
        ["row", "seed", *map(title, RANK_METRICS), "run"],
        [
            [
                row.name,
                str(seed),
                *(_number(row.ours[seed].get(metric)) for metric in RANK_METRICS),
                row.runs.get(seed, ""),
            ]
            for row in rows
            for seed in sorted(row.ours)
        ],
    )


def _mean_text(row: Measured, metric: str) -> str:
    mean, spread = row.mean(metric), row.spread(metric)
    if mean is None:
        return ""
    return _number(mean) + (f" ± {spread:.4f}" if spread is not None else "")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _millions(value: int | None) -> str:
    return "" if value is None else f"{value / 1e6:.3f} M"


def _listed(items: Sequence[Any]) -> str:
    return ", ".join(map(str, items))
