"""The Python API: in a few lines what the jobs do, with the same results."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from laser import api
from laser.config.jobs import RecommendJob
from laser.errors import UserError
from laser.serving.recommending import recommend
from laser.tracking.interface import StoredRun

SMALL = (
    "prompt.instruction=Sum up", "prompt.max_history_items=3", "prompt.max_item_tokens=8",
    "llm.num_layers=2", "llm.dtype=fp32", "llm.compile=false", "recommender.hidden_size=8", "recommender.max_epochs=1",
    "mformer.num_experts=2", "mformer.num_virtual_tokens=2", "mformer.hidden_size=16", "mformer.num_heads=2",
    "training.stage2_epochs=0", "training.train_users=20", "training.validation_users=20",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tiny_llm: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> api.TrainedRun:
    folder = tmp_path_factory.mktemp("notebook")
    places = (f"cache_dir={cache}", f"output_dir={folder / 'runs'}", f"tracking.uri=folder:{folder / 'records'}")
    return api.train(api.experiment(f"llm={tiny_llm}", *SMALL, *places))


def test_an_experiment_is_composed_as_on_the_command_line_and_runs_in_this_process():
    assert api.experiment().training.num_workers == 0
    assert api.experiment("data=elsewhere", "training.num_workers=2").training.num_workers == 2
    assert api.experiment("data=elsewhere").data.k_core == 0  # as for the jobs, the quickstart's own does not apply
    with pytest.raises(UserError, match="mformer.num_expert"):
        api.experiment("mformer.num_expert=4")


def test_what_cannot_be_resumed_or_started_from_is_told_before_anything_is_made(tmp_path: Path):
    places = (f"cache_dir={tmp_path / 'cache'}", f"output_dir={tmp_path / 'runs'}", f"tracking.uri=folder:{tmp_path}")
    for setting in ("resume=true", f"training.start_from={tmp_path}"):
        with pytest.raises(UserError, match=f"^{setting.partition('=')[0]}: "):
            api.train(api.experiment("data=nowhere", setting, *places))
    assert list(tmp_path.iterdir()) == []


def test_data_say_what_they_are(cache: Path):
    dataset = api.load_data(api.experiment(f"cache_dir={cache}"))
    assert repr(dataset).startswith("ml-100k (") and f"{dataset.num_users:,} users" in repr(dataset)


def test_a_run_has_its_metrics_as_tables(run: api.TrainedRun):
    assert list(run.metrics.index) == ["untrained", "validation", "test"]
    assert run.metrics.loc["validation"].dropna().to_dict() == run.outcome.val
    assert list(run.history.index) == [0, 1]
    assert run.history["ndcg@10"].max() == run.outcome.val["ndcg@10"]


def test_evaluating_again_gives_the_recorded_metrics(run: api.TrainedRun):
    again = run.evaluate("test")
    assert list(again.index) == ["test"]
    # Measured: equal to the bit on this CPU; another one may sum in another order.
    assert again.loc["test"].to_dict() == pytest.approx(run.outcome.test, abs=1e-6)


def test_lists_are_those_of_the_job(run: api.TrainedRun, tmp_path: Path):
    model = run.model
    folder, lists = str(model.package.folder), tmp_path / "lists.parquet"
    recommend(RecommendJob(model=folder, k=3, num_workers=0, output=str(lists), cache_dir=run.cache_dir))
    table = model.recommend_to(k=3)
    assert table.equals(pq.read_table(lists).to_pandas())
    user = table.user[0]
    assert api.open_model(folder, run.cache_dir).recommend_to([user], k=3).item.tolist() == table.item[:3].tolist()


def test_histories_may_have_names_and_items_may_be_left_out(run: api.TrainedRun):
    first = run.model.recommend([["50", "181"]], k=2)
    assert (first.user.tolist(), first["rank"].tolist()) == (["0", "0"], [1, 2])
    other = run.model.recommend({"ann": ["50", "181"]}, k=1, excluded=[first.item[0]])
    assert (other.user.tolist(), other.item.tolist()) == (["ann"], [first.item[1]])


def test_a_recorded_run_is_opened_by_its_id(run: api.TrainedRun):
    stored: StoredRun = run.stored
    uri = f"folder:{Path(run.directory).parents[1] / 'records'}"
    assert api.open_run(stored.run_id, run.cache_dir, uri).metrics.equals(run.metrics)


def test_threads_sleep_in_a_notebook_as_in_a_job():
    code = "import os, sys; from laser import api; assert 'torch' not in sys.modules; "
    code += "api.experiment(); print(os.environ)"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "'OMP_WAIT_POLICY': 'passive'" in ran.stdout, ran.stderr
