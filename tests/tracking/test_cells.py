"""Runs are found by the key of their settings until they are superseded."""

from laser.config.schema import Experiment
from laser.tracking.cells import KEY, CellStore


def test_finished_runs_of_a_key_are_found_until_they_are_superseded(tracking, results):
    with tracking.run(Experiment(), "reproduce", "report", {}) as report:
        store = CellStore(tracking, report.run_id)
        first, second, other, failed = (
            store.start(Experiment(), "cell", {KEY: key}, None) for key in ("a", "a", "b", "a")
        )
        for run in (first, second, other):
            store.finish(run.run_id, "finished", results, None)
        store.finish(failed.run_id, "failed", results, "no such luck")
        assert {run.run_id for run in store.finished("a")} == {first.run_id, second.run_id}
        store.supersede("a")
        assert store.finished("a") == []
        assert [run.run_id for run in store.finished("b")] == [other.run_id]
        assert first.figures("best/") == {"ndcg@10": 0.2}  # the run stays
