"""Reproduce a table or figure of the paper, or measure a public benchmark: run what is not stored yet, and report it.

    python jobs/reproduce.py table=7 data=<folder>
    python jobs/reproduce.py benchmark=amazon-2014 data=<folder> config=configs/experiment/benchmark.yaml
    python jobs/reproduce.py results=docs/results [add=<name> runs=[<run id>,...] references=[<name>,...]]

The base is an experiment file (config=), and every cell changes one thing in it. Runs of the same settings on the same
data are found in MLflow and not run again, also after Ctrl-C. The report (Markdown, HTML, JSON) lies under output_dir.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laser.cli.job import AllFailedError, run_job
from laser.config.jobs import ReproduceJob


def main(job: ReproduceJob) -> Mapping[str, Any]:
    """Run the missing cells and write the report; or list the cells; or write the page of results."""
    from laser.records.record import update_results
    from laser.reproduction.benchmark import measure_benchmark
    from laser.reproduction.cells import wanted_table
    from laser.reproduction.make import listing, write_report
    from laser.reproduction.run import forget, look_up, run_missing
    from laser.tracking.cells import CellStore
    from laser.tracking.environment import environment
    from laser.tracking.runs import open_tracking
    from laser.training.run.directory import remember_run, remembered_run

    tracking = open_tracking(job.tracking)
    if job.benchmark is not None:
        with tracking.run(job, "reproduce", job.benchmark, {}) as parent:
            return measure_benchmark(job, CellStore(tracking, parent.run_id), tracking.find, environment())
    if job.results is not None:
        return update_results(job, tracking.find)
    table = wanted_table(job)
    reproduction = look_up(job, table, CellStore(tracking))
    if job.dry_run:
        return listing(reproduction)
    place = reproduction.sweep.path / "reports" / table.name.replace(" ", "-")
    tags = {"dataset": reproduction.dataset.name, "llm": job.llm.source, "table": table.name}
    run = tracking.run(job, "reproduce", f"{table.name} on {reproduction.dataset.name}", tags, remembered_run(place))
    with reproduction.sweep.running(), run as parent:
        remember_run(place, parent.run_id)
        store = CellStore(tracking, parent.run_id)
        if job.force:
            forget(reproduction, store)
        reproduction = run_missing(look_up(job, table, store), store)
        folder, summary = write_report(reproduction, environment())
        parent.log_directory(folder, "report")
        parent.set_tags({"mlflow.note.content": (folder / "report.md").read_text(encoding="utf-8")[:5000]})
        summary["run_id"] = parent.run_id
        if summary["failed"] and not reproduction.stored:
            raise AllFailedError("all cells failed; the messages above say why", summary)
    return summary


if __name__ == "__main__":
    run_job(main, ReproduceJob, Path("configs/experiment/reproduce.yaml"))
