"""Compare recorded runs on the same test users: a leaderboard with intervals, tests of all pairs, and groups of users.

    python jobs/compare.py runs=[<run id>,<run id>]
    python jobs/compare.py experiment=laser

Runs whose data, split or test users differ are refused, and the difference is named. The page is written as HTML and
Markdown, the figures as JSON, and all three are artifacts of a run of their own.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laser.cli.job import run_job
from laser.config.jobs import CompareJob

logger = logging.getLogger("compare")


def main(job: CompareJob) -> Mapping[str, Any]:
    """Read the runs, compare them and write the page. The summary holds the leaderboard and what to know of it."""
    import shutil
    from tempfile import TemporaryDirectory

    from laser.pages.document import as_html, as_markdown
    from laser.reproduction.comparison import check_comparable, compare_systems, read_systems
    from laser.reproduction.report.comparison import comparison_page
    from laser.sources.prepare import prepare_dataset
    from laser.storage.files import write_json, write_whole
    from laser.storage.places import check_file
    from laser.tracking.runs import open_records, runs_with_ranks

    page = Path(job.output).expanduser()
    check_file(page, "output")
    tracking = open_records(job.store(), must_exist=True)
    named = [tracking.find(run_id, "runs") for run_id in job.runs]
    systems = read_systems(named or runs_with_ranks(tracking, job.dataset))
    check_comparable(systems)
    dataset = prepare_dataset(systems[0].experiment.data, Path(job.cache_dir).expanduser())
    comparison = compare_systems(systems, dataset, job)
    blocks, figures = comparison_page(comparison), comparison.figures()
    page.parent.mkdir(parents=True, exist_ok=True)
    write_whole(page, as_html(f"Comparison on {dataset.name}", blocks))
    write_whole(page.with_suffix(".md"), as_markdown(blocks))
    write_json(page.with_suffix(".json"), figures)
    tags = {"dataset": dataset.name, "dataset_fingerprint": dataset.fingerprint}
    with (
        tracking.run(job, "compare", f"comparison on {dataset.name}", tags) as run,
        TemporaryDirectory() as to,
    ):
        for file in (page, page.with_suffix(".md"), page.with_suffix(".json")):
            shutil.copy(file, to)
        run.log_directory(Path(to), "comparison")
    logger.info("%s", as_markdown(blocks))
    return {"run_id": run.run_id, "page": str(page.absolute()), "data": figures["data"], "systems": figures["systems"]}


if __name__ == "__main__":
    run_job(main, CompareJob)
