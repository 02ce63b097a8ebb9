"""Claims: sentences that are checked against ranks, of other results and of published rows."""

import json
from pathlib import Path

import numpy as np
import pytest

from laser.config.jobs import ReproduceJob
from laser.errors import UserError
from laser.evaluation.user_ranks import UserRanks
from laser.records.record import update_results
from laser.records.results import Result

USERS = np.arange(400, dtype=np.int32)


def write_result(folder: Path, name: str, rank: int, seeds: tuple[int, ...] = (0,)) -> None:
    """A result that ranks three of four users' items at `rank`, and the others' far down."""
    found = {}
    for seed in seeds:
        values = np.where((USERS + seed) % 4 > 0, rank, 300).astype(np.int64)
        ranks = UserRanks(USERS, USERS, values, values)
        ranks.write(folder / f"{name}-seed{seed}.parquet")
        found[str(seed)] = {"run_id": "r", "val": {}, "test": ranks.metrics(), "ranks": f"{name}-seed{seed}.parquet"}
    facts = {"title": name, "command": "c", "commit": "c", "hardware": {}, "packages": {}, "fingerprint": "f"}
    result = Result.model_validate({"name": name, "dataset": "Scientific", "config": {}, "seeds": found, **facts})
    (folder / f"{name}.json").write_text(result.model_dump_json())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_result(tmp_path, "good", 1, (0, 1))
    write_result(tmp_path, "poor", 3)
    return tmp_path


def checked(folder: Path, claims: str) -> list[dict]:
    (folder / "claims.yaml").write_text(f"claims:\n{claims}")
    update_results(ReproduceJob(results=str(folder)), lambda run_id: pytest.fail("no run is read"))
    return json.loads((folder / "claims.json").read_text())


def test_a_claim_holds_or_not_by_the_ranks_of_the_same_users(folder):
    lines = "- {claim: It is so., system: %s, reference: %s}\n"
    shown, masked, *_, worse = checked(folder, lines % ("good", "poor") + lines % ("poor", "good"))
    assert shown["holds"] and shown["ratio"] == pytest.approx(2.0) and shown["p"] < 0.01  # 1 / log2(2), 1 / log2(4)
    assert (shown["history"], masked["history"]) == ("shown", "masked")
    assert shown["system_ranks"] == ["good-seed0.parquet", "good-seed1.parquet"]
    assert shown["reference_ranks"] == ["poor-seed0.parquet"] * 2 and shown["dataset"] == "Scientific"
    assert not worse["holds"] and worse["ratio"] == pytest.approx(0.5)
    page = (folder / "README.md").read_text()
    assert "- **Holds** (2 of 2): It is so. good, beside poor, ndcg@10, history shown: 0.7500 and 0.3750" in page
    assert "- **Does not hold** (0 of 2): It is so. poor, not beside good" in page


def test_a_published_benchmark_stands_for_each_of_its_rows_that_has_the_metric(folder):
    claim = "- {claim: It is above., system: poor, reference: 'published:scientific-2018', metrics: [%s]}"
    found = checked(folder, claim % "recall@10, ndcg@10")
    assert len(found) == 7 * 2 * 2 and all(one["holds"] and one["reference_ranks"] == [] for one in found)
    assert "- **Holds** (28 of 28): It is above. poor, the closest: beside" in (folder / "README.md").read_text()
    sasrec = next(one for one in found if one["reference"] == "SASRec (published)")
    assert (sasrec["theirs"], sasrec["ours"]) == (pytest.approx(0.1080), pytest.approx(0.75))


def test_a_claim_of_an_unknown_result_or_field_is_refused(folder):
    with pytest.raises(UserError, match="no result 'best'"):
        checked(folder, "- {claim: a, system: best, reference: poor}")
    with pytest.raises(UserError, match=r"claims\.yaml: claims\.0\.system: .*field required"):
        checked(folder, "- {claim: a, sytem: good, reference: poor}")
