"""The leaderboard as a table."""

from laser.tuning.leaderboard import all_failed, as_markdown
from laser.tuning.sweep import TrialRecord


def test_trials_stand_in_the_order_of_the_metric_that_selects():
    def trial(name: str, **changes) -> TrialRecord:
        values = {"name": name, "overrides": {}, "state": "finished", "run_id": "abc", "val": {}, **changes}
        return TrialRecord(**values)

    good = {"ndcg@10": 0.2, "recall@10": 0.25, "mrr": 0.125, "coverage@10": 0.5}
    lines = as_markdown([trial("failed early"), trial("weak", val={"ndcg@10": 0.1}), trial("good", val=good)])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines.splitlines()]
    assert rows[0] == ["rank", "trial", "val ndcg@10", "val recall@10", "val mrr", "epochs", "state", "run"]
    assert [row[1] for row in rows[2:]] == ["good", "weak", "failed early"]
    assert rows[2][2:5] == ["0.2000", "0.2500", "0.1250"] and rows[3][2:5] == ["0.1000", "", ""]


def test_baselines_stand_among_the_trials_without_a_rank():
    trials = [TrialRecord(name, {}, "finished", None, {"ndcg@10": ndcg}) for name, ndcg in (("K=2", 0.1), ("K=4", 0.3))]
    failed = TrialRecord("K=8", {}, "failed", None)
    lines = as_markdown([*trials, failed], {"popularity": {"ndcg@10": 0.2}}).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert [row[:3] for row in rows] == [
        ["1", "K=4", "0.3000"],
        ["", "popularity", "0.2000"],
        ["2", "K=2", "0.1000"],
        ["3", "K=8", ""],
    ]
    assert rows[1][-2:] == ["baseline", ""]


def test_a_sweep_has_failed_if_no_trial_ended_well():
    failed = TrialRecord("K=2", {}, "failed", None, error="OSError: no such luck")
    assert all_failed([failed, failed]).startswith("2 of 2 trials failed: OSError: no such luck; ")
    assert all_failed([]) is not None
    assert all_failed([failed, TrialRecord("K=4", {}, "stopped", None)]) is None
