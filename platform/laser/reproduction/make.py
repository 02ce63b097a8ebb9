"""From a reproduction to its files: report.md, report.html, report.json, and the users of each expert."""

import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from laser.config.compose import read_yaml, validate, with_overrides
from laser.config.paths import with_absolute_paths
from laser.config.schema import Experiment
from laser.errors import UserError
from laser.evaluation.metrics import SELECTION_METRIC
from laser.forecast.cost import Cost, cell_cost, duration, measured_speed
from laser.pages.document import Block, as_html, as_markdown
from laser.reproduction.cells import Cell, base_experiment
from laser.reproduction.experts import ExpertUsers, expert_users, load_course
from laser.reproduction.measure import measured_rows, row_significance, surroundings
from laser.reproduction.parameters import count_parameters, paper_size_parameters
from laser.reproduction.report.experts import expert_report
from laser.reproduction.report.tables import count_report, rows_as_json, table_report, verdict
from laser.reproduction.run import Reproduction
from laser.tracking.interface import StoredRun

logger = logging.getLogger(__name__)


def write_report(reproduction: Reproduction, environment: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Write the report's files beside the cells.

    Args:
        reproduction: a table, with what is stored of it.
        environment: of this process: hardware, commit, command.

    Returns:
        The folder, and the summary: rows with their means, differences and verdicts, and the cells that failed.
    """
    job, table = reproduction.job, reproduction.table
    around = surroundings(job, table, reproduction.dataset, reproduction.stored, environment)
    folder = reproduction.sweep.path / "reports" / table.name.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    if table.counts:
        base = base_experiment(job)
        counts, paper_size = count_parameters(base), paper_size_parameters(base)
        blocks = count_report(table, counts, paper_size, around)
        content: dict[str, Any] = {"table": table.name, "counts": counts, "counts_at_paper_width": paper_size}
        summary = content
    else:
        rows = measured_rows(reproduction)
        significance = row_significance(reproduction)
        blocks = table_report(table, rows, around, significance)
        content = rows_as_json(table, rows, around, significance)
        experts, more = _experts(reproduction)
        blocks += more
        if experts is not None:
            write_users(experts, folder / "experts.arrow")
        summary = {
            "table": table.name,
            "rows": {
                row.id: {
                    "seeds": len(row.ours),
                    SELECTION_METRIC: row.mean(SELECTION_METRIC),
                    "verdict": verdict(row, rows),
                }
                for row in rows
                if row.ours
            },
        }
    title = f"{table.name.capitalize()}: {table.title}"
    (folder / "report.md").write_text(as_markdown(blocks), encoding="utf-8")
    (folder / "report.html").write_text(as_html(title, blocks), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(content, indent=1) + "\n")
    whence = {"report": str(folder / "report.html"), "data": reproduction.dataset.facts()}
    return folder, {**whence, **summary, "failed": [cell.name for cell in reproduction.missing]}


def write_users(experts: ExpertUsers, path: Path) -> None:
    """The routed users as an Arrow file."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, experts.users.schema) as file:
        file.write_table(experts.users)


def listing(reproduction: Reproduction) -> dict[str, Any]:
    """What a dry run says: each cell, whether it is stored, and what it costs if not."""
    total, cells = Cost(0, 0, 0.0), []
    speed = measured_speed(run for run in reproduction.stored.values() if "llm" in run.tags())
    missing = {cell.key for cell in reproduction.missing}
    for cell in reproduction.cells:
        run = reproduction.stored.get(cell.key)
        cost = None
        if cell.key in missing and cell.kind == "laser":
            cost = cell_cost(cell.config, cell.dataset, speed)
            total, missing = total + cost, missing - {cell.key}
        cells.append(
            {
                "cell": cell.name,
                "overrides": cell.overrides,
                "state": reproduction.state(cell),
                "run_id": run.run_id if run else None,
                "tokens": cost.train_tokens + cost.read_tokens if cost else 0,
                "seconds": round(cost.seconds) if cost else 0,
            }
        )
        logger.info("%-28s %-16s %s", cell.name, cells[-1]["state"], f"about {duration(cost.seconds)}" if cost else "")
    for row in reproduction.waiting:
        logger.info("%-28s waits for the run that it starts from", row)
    logger.info(
        "%d of %d cells to run: about %s on an idle machine by %s; uncached recommenders and warm starts on top",
        len(reproduction.missing), len(cells), duration(total.seconds),
        "the speed of stored runs" if speed else "the speed of a measured machine",
    )  # fmt: skip
    return {
        "table": reproduction.table.name,
        "cells": cells,
        "waiting": reproduction.waiting,
        "to_run": len(reproduction.missing),
        "tokens": total.train_tokens + total.read_tokens,
        "seconds": round(total.seconds),
    }


def _experts(reproduction: Reproduction) -> tuple[ExpertUsers | None, list[Block]]:
    """The analysis of the first stored run that routes users among several experts."""
    for cell in reproduction.cells:
        run = reproduction.stored.get(cell.key)
        settings = cell.config
        routed = cell.kind == "laser" and settings.bituning.prefix == "mformer" and settings.mformer.num_experts > 1
        if run is None or not routed or not run.has("recommender"):
            continue
        experts = _routed(cell, run)
        if experts is not None:
            name = f"{reproduction.table.rows[cell.row].name}, seed {cell.seed}, run {run.run_id}"
            return experts, expert_report(experts, load_course(run.course("expert_load/")), name)
    return None, []


def _routed(cell: Cell, run: StoredRun) -> ExpertUsers | None:
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        config = validate(Experiment, read_yaml(run.fetch("config.yaml", directory)))
        here = {"cache_dir": cell.config.cache_dir, "data.path": cell.config.data.path}
        config = with_absolute_paths(with_overrides(config, here))
        try:
            return expert_users(config, run.fetch("checkpoint", directory), run.fetch("recommender", directory))
        except UserError as error:
            logger.warning("no analysis of the experts: %s", error)
            return None
