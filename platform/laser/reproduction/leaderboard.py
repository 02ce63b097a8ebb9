"""Fills a leaderboard: makes the baselines of a job, compares runs of any kind, and records what came of it."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from laser.config.jobs import CompareJob
from laser.pages.document import as_html, as_markdown
from laser.reproduction.comparison import System, check_comparable, compare_systems
from laser.reproduction.report.comparison import comparison_page
from laser.sources.prepare import prepare_dataset
from laser.storage.files import write_json, write_whole
from laser.tracking.interface import Records


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
