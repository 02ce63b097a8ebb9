"""Write the page of a sweep: importance of the settings, best trials, courses, experts and cost, as one HTML file.

    python jobs/report.py experiment=laser

The page needs nothing else: no network, no server. It is the sweep that was started last unless run_id names another,
and it may still run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laser.cli.job import run_job
from laser.config.jobs import ReportJob


def main(job: ReportJob) -> Mapping[str, Any]:
    """Read the sweep's runs and write its page and the same in Markdown."""
    from laser.pages.document import as_html, as_markdown
    from laser.pages.sweep import sweep_page
    from laser.storage.files import write_whole
    from laser.storage.places import check_file
    from laser.tracking.description import NOTE
    from laser.tracking.runs import open_tracking
    from laser.tracking.sweeps import latest_sweep_run, read_trials

    tracking = open_tracking(job.store(), must_exist=True)
    parent = tracking.find(job.run_id) if job.run_id else latest_sweep_run(tracking)
    tags = parent.tags()
    name, trials = tags["mlflow.runName"], read_trials(tracking, parent)
    blocks = sweep_page(name, tags.get(NOTE, "").partition("\n\n")[0], trials)
    page = Path(job.output or f"sweep-{name}.html").expanduser()
    check_file(page, "output")
    page.parent.mkdir(parents=True, exist_ok=True)
    write_whole(page, as_html(f"Sweep {name}", blocks))
    write_whole(page.with_suffix(".md"), as_markdown(blocks))
    return {"parent_run_id": parent.run_id, "trials": len(trials), "page": str(page.absolute())}


if __name__ == "__main__":
    run_job(main, ReportJob)
