"""The trials of a search, best first."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from laser.cli.tables import markdown_table
from laser.evaluation.metrics import SELECTION_METRIC, selection_first
from laser.tuning.sweep import TrialRecord

BEST = ("run_id", "overrides", "val", "test")
"""What a summary holds of the best trial."""


def leaderboard(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Sort the trials by validation NDCG@10; trials that failed before they had one come last."""
    return sorted(records, key=lambda record: (-record.val.get(SELECTION_METRIC, -1.0), record.name))


def count_by_state(records: Sequence[TrialRecord]) -> dict[str, int]:
    """Count the trials by how they ended; every state is named."""
    counts = Counter(record.state for record in records)
    return {state: counts[state] for state in ("finished", "stopped", "failed")}


def ranked(records: Sequence[TrialRecord]) -> dict[str, Any]:
    """Return what a summary says of sorted trials: their number by state, and the best one if it has a metric."""
    best = {name: getattr(record, name) for record in records[:1] for name in BEST}
    return {"trials": count_by_state(records), "best": best if best.get("val") else None}


def all_failed(records: Sequence[TrialRecord]) -> str | None:
    """Return a line on the first error if no trial ended well, else None."""
    if any(record.state != "failed" for record in records):
        return None
    first = next((record.error for record in records if record.error), "no trial was run")
    return f"{len(records)} of {len(records)} trials failed: {first}; a trial's error.txt has the whole error"


def as_markdown(records: Sequence[TrialRecord], baselines: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """Write the leaderboard as a Markdown table, for a terminal and for MLflow's notes.

    Args:
        records: the trials.
        baselines: name → validation metrics of recommenders to show among the trials. They get no rank.
    """
    rows: list[tuple[Mapping[str, float], str, str, str, str, str]] = [
        (record.val, str(rank), record.name, str(record.epochs), record.state, record.run_id or "")
        for rank, record in enumerate(leaderboard(records), 1)
    ]
    rows += [(val, "", name, "", "baseline", "") for name, val in (baselines or {}).items()]
    rows.sort(key=lambda row: -row[0].get(SELECTION_METRIC, -1.0))
    metrics = selection_first()
    header = ["rank", "trial", *(f"val {name}" for name in metrics), "epochs", "state", "run"]
    cells = [
        (rank, name, *(f"{val[metric]:.4f}" if metric in val else "" for metric in metrics), *rest)
        for val, rank, name, *rest in rows
    ]
    return markdown_table(header, cells, text=(1, len(header) - 2, len(header) - 1)) + "\n"
