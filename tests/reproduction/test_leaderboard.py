"""One command fills a leaderboard: baselines and Laser on the same data, each made once, and the page of all."""

import json
import logging
import runpy
from pathlib import Path
from typing import Any

import pytest

from laser import api
from laser.config.compose import flatten, load_config, with_overrides
from laser.config.jobs import ReferencesJob
from laser.config.schema import Experiment
from laser.errors import UserError
from laser.reproduction.leaderboard import experiment_files, laser_experiments
from laser.reproduction.paper import read_table
from laser.tracking.runs import open_tracking

EXPERIMENT = """
data: {{path: elsewhere, k_core: 3}}
prompt: {{instruction: Sum up, attributes: [brand], max_history_items: 3, max_item_tokens: 8}}
llm: {{source: {llm}, dtype: fp32, compile: false}}
recommender: {{type: item_knn, hidden_size: 8}}
mformer: {{num_experts: 2, num_virtual_tokens: 2, num_layers: 1, hidden_size: 16, num_heads: 2}}
training:
  {{num_workers: 0, stage1_epochs: 1, stage2_epochs: 1, train_users: 20, validation_users: 20, test: false, seed: 3}}
"""


WAYS = {
    "frozen": "frozen", "suffix": "suffix", "prompt-tuning": "bituning", "linear": "linear", "laser": "laser",
    "laser-late": "after", "lora": "lora", "full": "full",
}  # fmt: skip
"""Files of configs/experiment/ways, and the rows of table=tuning that are the same ways."""
OF_A_WAY = {
    "finetuning.type", "bituning.prefix", "bituning.prefix_position", "mformer.num_virtual_tokens",
    "training.learning_rate", "training.token_learning_rate", "training.llm_learning_rate", "training.stage1_epochs",
}  # fmt: skip
"""What may differ between ways: what is trained, and at which rates; without a stage, nothing beside the head."""
OF_A_LATER_RUN = ("training.start_from", "warm_start.epochs", "head.standardise")
"""What the table sets because its rows start from the head of another run."""


class Board:
    """A folder with an experiment of Laser, and the job that puts it on a leaderboard."""

    def __init__(self, folder: Path, data: Path, llm: Path, repo: Path) -> None:
        self.folder, self.repo = folder, repo
        self.file = folder / "small.yaml"
        self.file.write_text(EXPERIMENT.format(llm=llm))
        self.places = (
            f"data={data}",
            f"cache_dir={folder / 'cache'}",
            f"output_dir={folder / 'runs'}",
            f"tracking.uri=sqlite:///{folder / 'mlflow.db'}",
        )

    def job(self, *arguments: str) -> ReferencesJob:
        return load_config(ReferencesJob, [*self.places, "points=1", *arguments], None)

    def fill(self, *arguments: str) -> dict[str, Any]:
        """Do what jobs/references.py does, and return its summary as it is printed."""
        main = runpy.run_path(str(self.repo / "jobs/references.py"))["main"]
        return json.loads(json.dumps(main(self.job(*arguments))))


@pytest.fixture
def board(tmp_path: Path, walks: Path, tiny_llm: Path, repo: Path) -> Board:
    return Board(tmp_path, walks, tiny_llm, repo)


def test_one_command_ranks_baselines_and_laser_on_real_data_and_a_second_makes_nothing(
    tmp_path, shared_data, tiny_llm, repo
):
    board = Board(tmp_path, shared_data / "Scientific_mini", tiny_llm, repo)
    arguments = ("families=[popularity,item_knn]", "points=2", f"laser=[{board.file}]")
    first = board.fill(*arguments)
    assert list(first["references"]) == ["popularity", "item_knn"] and list(first["laser"]) == ["small"]
    assert first["laser"]["small"]["test"]["ndcg@10"] > 0.0  # though the file says that it is not tested
    made = [*first["references"].values(), *first["laser"].values()]

    page = Path(first["leaderboard"]["page"])
    assert page == tmp_path / "runs" / "references-Scientific_mini" / "leaderboard.html" and page.is_file()
    systems = {system["name"]: system for system in first["leaderboard"]["systems"]}
    assert sorted(system["run_id"] for system in systems.values()) == sorted(one["run_id"] for one in made)
    # Worst of three systems: 2e-17, of sums in another order.
    assert systems["small"]["ndcg@10"] == pytest.approx(first["laser"]["small"]["test"]["ndcg@10"], abs=1e-12)
    assert {name: system["points"] for name, system in systems.items()} == {
        "popularity": 1.0, "item_knn": 2.0, "small": 1.0
    }  # fmt: skip
    assert systems["small"]["search_seconds"] == systems["small"]["seconds"] == first["laser"]["small"]["seconds"] > 0
    assert systems["small"]["trainable_parameters"] > systems["item_knn"]["trainable_parameters"] == 0.0
    assert systems["small"]["peak_mib"] > 1.0 and systems["item_knn"]["peak_mib"] is None
    assert "| small" in page.with_suffix(".md").read_text() and page.with_suffix(".json").is_file()

    tracking = open_tracking(board.job().tracking)
    assert tracking.find(first["leaderboard"]["run_id"]).has("comparison/leaderboard.html")
    laser = tracking.find(first["laser"]["small"]["run_id"])
    assert laser.tags()["mlflow.runName"] == "small"
    assert laser.settings()["data.path"].endswith("Scientific_mini") and laser.settings()["data.k_core"] == "0"
    assert laser.settings()["training.seed"] == "3"

    trained = {path: path.stat().st_mtime_ns for path in page.parent.glob("laser-*/**/*")}
    again = board.fill(*arguments)
    assert again["laser"] == first["laser"] and again["references"] == first["references"]
    assert {path: path.stat().st_mtime_ns for path in page.parent.glob("laser-*/**/*")} == trained
    assert len(tracking.search("tags.kind = 'train'")) == 1


def test_a_run_of_the_training_job_is_found_and_an_interrupted_one_goes_on(board, monkeypatch, caplog):
    [experiment] = laser_experiments(board.job(f"laser=[{board.file}]"))
    monkeypatch.setattr("laser.training.train.train_laser", interrupted_after_an_epoch)
    with pytest.raises(KeyboardInterrupt):
        api.train_once(experiment, board.folder / "runs")
    monkeypatch.undo()
    tracking = open_tracking(experiment.tracking)
    [killed] = tracking.search("tags.kind = 'train'")
    with caplog.at_level(logging.INFO):
        run = api.train_once(experiment, board.folder / "runs")
    assert run.run_id == killed.run_id and "resumed after stage1-epoch0001" in caplog.text

    other = experiment.model_copy(update={"training": experiment.training.model_copy(update={"seed": 4})})
    trained = api.train(other).stored
    found = api.train_once(other.model_copy(update={"name": "other"}), board.folder / "runs")
    assert found.run_id == trained.run_id
    assert "points" not in found.figures("")  # how many settings were tried before it is not known


def test_a_single_system_ends_well_and_says_why_there_is_no_leaderboard(board, caplog):
    with caplog.at_level(logging.INFO):
        summary = board.fill("families=[popularity]")
    assert summary["leaderboard"] is None and summary["references"]["popularity"]["test"]
    assert caplog.messages[-1].startswith(
        "no leaderboard: it takes two systems with ranks of test users, and there are 1; name more families"
    )
    assert not list(board.folder.rglob("leaderboard.*"))


def test_without_test_users_there_is_no_leaderboard(board, tmp_path, caplog):
    untested = tmp_path / "untested"
    untested.mkdir()
    users = {str(user): [(user + step) % 7 for step in range(4)] for user in range(20)}
    files = {
        "train": {user: items[:3] for user, items in users.items()},
        "val": {user: items[3:] for user, items in users.items()},
        "test": {},
        "umap": {f"user {user}": int(user) for user in users},
        "smap": {f"item {item}": item for item in range(7)},
        "meta_data": {f"item {item}": {"title": f"Title {item}"} for item in range(7)},
    }
    for name, content in files.items():
        (untested / f"{name}.json").write_text(json.dumps(content))
    with caplog.at_level(logging.INFO):
        summary = board.fill(f"data={untested}", "families=[popularity,item_knn]")
    assert summary["leaderboard"] is None and summary["references"]["popularity"]["test"] is None
    assert "two systems with ranks of test users, and there are 0" in caplog.messages[-1]


def test_a_wrong_experiment_is_told_before_anything_is_made(board, tmp_path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("mformer: {num_expert: 4}\n")
    twin = tmp_path / "twin" / "small.yaml"
    twin.parent.mkdir()
    twin.write_text(board.file.read_text())
    missing = tmp_path / "missing.yaml"
    for files, message in (
        (f"{missing}", rf"^laser: {missing}: No such file or directory; name an existing YAML file$"),
        (f"{wrong}", rf"^laser: {wrong}: mformer\.num_expert: no such setting; did you mean num_experts"),
        (f"{board.file},{twin}", rf"^laser: {twin}: another file is called small too, and runs are named so"),
    ):
        with pytest.raises(UserError, match=message):
            board.fill(f"laser=[{files}]")
    assert not (tmp_path / "cache").exists() and not (tmp_path / "mlflow.db").exists()


def test_the_ways_to_tune_the_llm_differ_from_their_base_in_the_way_alone(board):
    folder = board.repo / "configs" / "experiment" / "ways"
    of_table = load_config(Experiment, [f"config={folder.parent / 'tuning.yaml'}", *board.places], None)
    base, table = with_overrides(of_table, {"llm.dtype": "fp32"}), read_table("table tuning")
    ways = {experiment.name: experiment for experiment in laser_experiments(board.job(f"laser=[{folder}]"))}
    assert ways.keys() == WAYS.keys()
    for name, row in WAYS.items():
        changes = {key: value for key, value in table.rows[row].changes.items() if key not in OF_A_LATER_RUN}
        assert changes.keys() <= OF_A_WAY, name
        assert flatten(ways[name]) == flatten(with_overrides(base, {**changes, "name": name})), name
    assert len({json.dumps(flatten(way) | {"name": ""}) for way in ways.values()}) == len(WAYS)


def test_a_folder_stands_for_the_experiments_in_it(board, tmp_path):
    folder = tmp_path / "mine"
    (folder / "below").mkdir(parents=True)
    (folder / "_base.yaml").write_text(board.file.read_text())
    for name in ("b", "a", "below/c", ".hidden"):
        (folder / f"{name}.yaml").write_text("extends: [_base.yaml]\n")
    (folder / "notes.md").write_text("no experiment")
    files = experiment_files([str(board.file), str(folder)])
    assert files == [board.file, folder / "a.yaml", folder / "b.yaml"]
    names = [experiment.name for experiment in laser_experiments(board.job(f"laser=[{folder},{board.file}]"))]
    assert names == ["a", "b", "small"]


@pytest.mark.parametrize("files", [(), ("_base.yaml", "notes.md")])
def test_a_folder_without_experiments_is_told(board, tmp_path, files):
    folder = tmp_path / "mine"
    folder.mkdir()
    for file in files:
        (folder / file).touch()
    with pytest.raises(UserError, match=f"^laser: {folder}: no experiment lies in this folder; name files"):
        board.fill(f"laser=[{folder}]")
    assert not (tmp_path / "cache").exists()


def interrupted_after_an_epoch(config, artifacts, run_dir, report):
    """Train as `train_laser` does, until Ctrl-C reaches the report of the first epoch."""
    from laser.training.plain import train_here

    def until_the_first(metrics: Any, epoch: int) -> None:
        report(metrics, epoch)
        if epoch == 1:
            raise KeyboardInterrupt

    return train_here(config, artifacts, run_dir, until_the_first)
