"""Lists in batches: the file, its summary, and the same lists from Ray Data's workers."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laser.config.jobs import RecommendJob
from laser.config.schema import TrackingConfig
from laser.errors import UserError
from laser.evaluation.lists import spread
from laser.serving.lists import SCHEMA
from laser.serving.recommending import recommend


@pytest.fixture
def job(trained, store, cache, tmp_path):
    """A job on a model; its users are those of the test split, as the evaluation reads them."""

    def job(variant: str = "stack", **settings) -> RecommendJob:
        model = {} if "model" in settings else {"run_id": trained(variant).run.run_id}
        settings = {"history": "test", "mask_history": False, "output": str(tmp_path / "lists.parquet")} | settings
        return RecommendJob(tracking=TrackingConfig(uri=store.uri), cache_dir=str(cache), **model, **settings)

    return job


def lists_of(table: pa.Table) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {}
    for row in table.to_pylist():
        lists.setdefault(row["user"], []).append(row["item"])
        assert row["rank"] == len(lists[row["user"]])
    return lists


def test_all_test_users_get_the_lists_of_the_evaluation(job, trained, tmp_path):
    model = trained("stack")
    summary = recommend(job())
    table = pq.read_table(summary["output"])
    assert table.schema == SCHEMA
    lists = lists_of(table)
    users, items = model.inputs.dataset.user_raw_ids, model.inputs.dataset.items.column("raw_id").to_pylist()
    wanted = {
        users[user]: [items[item] for item in row]
        for user, row in zip(model.ranks.users, model.ranks.lists_EK, strict=True)
    }
    assert lists == wanted
    assert summary["users"] == len(wanted) and summary["rows"] == 10 * len(wanted)
    assert summary["lists"]["coverage"] == pytest.approx(model.ranks.metrics()["coverage@10"])
    assert summary["histories"]["longer_than_prompt"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["lists.parquet"]  # nothing is left beside it


def test_options_and_files(job, trained, tmp_path):
    model = trained("stack")
    items = model.inputs.dataset.items.column("raw_id").to_pylist()
    users = model.inputs.dataset.user_raw_ids[:5]
    (tmp_path / "users.txt").write_text("\n".join(users) + "\n")
    (tmp_path / "allowed.csv").write_text("item,why\n" + "".join(f"{item},x\n" for item in items[:30]))
    pq.write_table(pa.table({"item_id": items[:10]}), tmp_path / "excluded.parquet")
    files = {name: str(next(tmp_path.glob(f"{name}.*"))) for name in ("users", "allowed", "excluded")}
    summary = recommend(job(k=7, history="all", mask_history=True, **files))
    lists = lists_of(pq.read_table(summary["output"]))
    assert list(lists) == users
    owned = dict(zip(users, map(model.inputs.dataset.offsets.__getitem__, range(5)), strict=True))
    for number, user in enumerate(users):
        end = model.inputs.dataset.offsets[number + 1]
        own = {items[item] for item in model.inputs.dataset.item_ids[owned[user] : end]}
        assert not own & set(lists[user])
        assert set(lists[user]) <= set(items[10:30])


def test_a_run_without_its_users_is_refused(job, tmp_path):
    (tmp_path / "users.txt").write_text("nobody\n")
    with pytest.raises(UserError, match="users: 'nobody' is no user"):
        recommend(job(users=str(tmp_path / "users.txt")))
    with pytest.raises(UserError, match="users: .*no readable file"):
        recommend(job(users=str(tmp_path / "none.txt")))
    with pytest.raises(UserError, match="run_id: 'nothing' is not in"):
        recommend(RecommendJob(run_id="nothing", tracking=job().tracking, output=str(tmp_path / "a")))
    assert not (tmp_path / "lists.parquet").exists()


def test_new_histories_have_popular_items_where_nothing_is_known(job, trained, tmp_path):
    items = trained("stack").inputs.dataset.items.column("raw_id").to_pylist()
    lines = [{"user": "known", "items": items[:4]}, {"user": "odd", "items": ["?", items[0]]}, {"user": 3, "items": []}]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = recommend(job(histories=str(tmp_path / "new.jsonl"), k=2))
    table = pq.read_table(summary["output"])
    assert list(lists_of(table)) == ["known", "odd", "3"]
    assert [score is None for score in table.column("score").to_pylist()] == [False] * 4 + [True] * 2
    assert summary["histories"] == {"by_popularity": 1, "with_unknown_items": 1, "longer_than_prompt": 1}


@pytest.mark.ray
@pytest.mark.slow
def test_the_workers_of_ray_data_give_the_same_file(job, tmp_path):
    here = pq.read_table(recommend(job(batch_users=64))["output"])
    summary = recommend(job(batch_users=64, num_workers=2, output=str(tmp_path / "ray.parquet")))
    assert summary["on_ray"]
    assert pq.read_table(summary["output"]).equals(here)


def test_spread_by_hand():
    # Three users, lists of two of four items: ab, ab, ac.
    figures = spread(np.array([3, 2, 1, 0]), 3, np.array([5, 5, 1, 0]))
    assert figures["coverage"] == 0.75
    # Pairs share 2, 1 and 1 of 2 items.
    assert figures["diversity"] == pytest.approx(1 - (2 + 1 + 1) / 3 / 2)
    # a and b: two below and one tie of three others; c: one below.
    assert figures["popularity_bias"] == pytest.approx((5 * (2.5 / 3) + 1 / 3) / 6)
    alike = spread(np.array([4, 4, 0]), 4, np.array([1, 1, 1]))
    assert (alike["diversity"], alike["popularity_bias"]) == (0.0, 0.5)
