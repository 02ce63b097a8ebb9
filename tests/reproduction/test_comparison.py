"""A comparison of recorded runs: what it measures, its page, and which runs it refuses."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laser.config.compose import with_overrides
from laser.config.identity import recommender_tags
from laser.config.jobs import CompareJob
from laser.config.schema import Experiment, TrackingConfig
from laser.errors import UserError
from laser.evaluation.metrics import ndcg
from laser.evaluation.user_ranks import TEST_RANKS, UserRanks, read_ranks
from laser.pages.document import as_markdown
from laser.recommenders.pretraining import pretrained_recommender
from laser.reproduction.comparison import check_comparable, compare_systems, read_systems
from laser.reproduction.report.comparison import comparison_page
from laser.sources.prepare import prepare_dataset
from laser.tracking.runs import open_records, open_tracking

FAMILIES = ("popularity", "item_knn", "ease")


class Runs:
    """Recommenders that were made and recorded, in a folder of runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        raw = folder / "raw"
        raw.mkdir()
        random, rows = np.random.default_rng(0), []
        for user in range(120):
            item = random.integers(30)
            for place in range(6):
                rows.append(f"u{user},i{item},{random.integers(900) + place}\n")
                item = (item + (2 if random.random() < 0.5 else random.integers(1, 9))) % 30
        (raw / "interactions.csv").write_text("user,item,timestamp\n" + "".join(rows))
        (raw / "items.csv").write_text("item,title\n" + "".join(f"i{n},Title {n % 5}\n" for n in range(30)))
        self.cache, self.uri = folder / "cache", f"folder:{folder / 'runs'}"
        base = {"data.path": str(raw), "cache_dir": str(self.cache), "tracking.uri": self.uri}
        self.base = with_overrides(Experiment(), base)
        self.ids = {family: self.make(family) for family in FAMILIES}

    def make(self, family: str, name: str | None = None, **changes: Any) -> str:
        """Make and record a recommender as jobs/pretrain.py does, and return its run's id."""
        config = with_overrides(self.base, {"recommender": {"type": family}, **changes})
        dataset = prepare_dataset(config.data, self.cache)
        tags = recommender_tags(config.recommender, dataset.name, dataset.fingerprint, self.cache)
        with open_records(config.tracking).run(config, "pretrain", name or family, tags) as run:
            run.record(pretrained_recommender(config.recommender, dataset, self.cache).run_results())
        return run.run_id

    def systems(self, *run_ids: str):
        store = open_records(self.base.tracking, must_exist=True)
        return read_systems([store.find(run_id) for run_id in run_ids])

    def job(self, **settings: Any) -> CompareJob:
        named = {"runs": tuple(self.ids.values()), "rounds": 200, "cache_dir": str(self.cache), **settings}
        return CompareJob.model_validate({"tracking": {"uri": self.uri}, **named})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("compared"))


@pytest.fixture(scope="module")
def comparison(runs: Runs):
    return compare_systems(
        runs.systems(*runs.ids.values()),
        prepare_dataset(runs.base.data, runs.cache),
        runs.job(metrics=("ndcg@5", "hit@3")),
    )


def test_systems_are_ordered_by_the_first_metric_and_measured_from_their_ranks(runs, comparison):
    means = comparison.metrics["ndcg@5"].mean(axis=1)
    assert (np.diff(means) <= 0).all() and {system.name for system in comparison.systems} == set(FAMILIES)
    for row, system in enumerate(comparison.systems):
        ranks = read_ranks(runs.folder / "runs" / system.run_id / TEST_RANKS)
        assert means[row] == pytest.approx(ndcg(ranks.ranks, 5).mean(), abs=1e-15)
        low, high = comparison.intervals["ndcg@5"][row]
        assert low <= means[row] <= high
    assert [list(lists) for lists in comparison.lists] == [
        ["coverage@10", "novelty@10", "popularity_bias@10", "diversity@10"]
    ] * 3


def test_figures_have_every_pair_every_group_and_every_finding(comparison):
    figures = json.loads(json.dumps(comparison.figures()))
    assert [(pair["first"], pair["second"]) for pair in figures["pairs"]] == [
        (comparison.systems[a].name, comparison.systems[b].name) for a, b in ((0, 1), (0, 2), (1, 2))
    ]
    assert len(comparison.segments) >= 3
    for users_E in comparison.segments.values():
        assert users_E.shape == comparison.metrics["ndcg@5"][0].shape
    assert [system["findings"] for system in figures["systems"]] == comparison.findings
    assert "arXiv 2507.16289" in figures["data"]["notes"][0]


def test_what_a_system_took_is_shown_where_its_run_has_recorded_it(runs):
    store = open_records(runs.base.tracking, must_exist=True)
    searched = runs.make("sasrec", "searched", **{"recommender.max_epochs": 1, "recommender.hidden_size": 8})
    store.find(searched).summarise({"points": 2.0, "search_seconds": 34.4, "seconds": 12.0, "peak_mib": 900.4})
    weights = store.find(searched).figures("")["trainable_parameters"]
    systems = runs.systems(searched, runs.ids["popularity"])
    comparison = compare_systems(systems, prepare_dataset(runs.base.data, runs.cache), runs.job())
    page = as_markdown(comparison_page(comparison)).partition("## Budget")[2].partition("## Pairs")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if "|" in line]
    rows = {name: rest for name, *rest in cells}
    assert rows["searched"] == ["2", "34", "12", f"{weights:,.0f}", "900"]
    assert rows["popularity"] == ["", "", "0", "0", ""]  # no search is recorded with it
    figures = {system["name"]: system for system in json.loads(json.dumps(comparison.figures()))["systems"]}
    assert (figures["searched"]["points"], figures["searched"]["search_seconds"]) == (2.0, 34.4)
    assert figures["popularity"]["points"] is None and figures["popularity"]["trainable_parameters"] == 0.0


def test_the_job_writes_the_page_and_records_it(runs, tmp_path, repo):
    job = runs.job(output=str(tmp_path / "page" / "mine.html"), history="masked")
    summary = job_main(repo)(job)
    assert [system["name"] for system in summary["systems"]]
    markdown = (tmp_path / "page" / "mine.md").read_text()
    for text in (
        "## Leaderboard",
        "## Warnings",
        "the history masked",
        "Split leave_one_out",
        "NDCG@10",
        "Diversity@10",
    ):
        assert text in markdown
    assert markdown.count("arXiv 2507.16289") == 1
    html = (tmp_path / "page" / "mine.html").read_text()
    assert "<table" in html and "popularity" in html
    recorded = runs.folder / "runs" / summary["run_id"] / "comparison"
    assert sorted(path.name for path in recorded.iterdir()) == ["mine.html", "mine.json", "mine.md"]
    assert json.loads((recorded / "mine.json").read_text())["systems"] == summary["systems"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data.split": {"type": "temporal"}},
            r"differ in data\.split\.type: 'leave_one_out' and 'temporal'; compare runs on the same split",
        ),
        ({"data.seed": 3}, r"differ in data\.seed: 0 and 3; compare"),
    ],
)
def test_runs_on_other_data_or_another_split_are_refused_and_the_difference_is_named(runs, changes, message):
    other = runs.make("popularity", "other", **changes)
    with pytest.raises(UserError, match=rf"runs: item_knn \(\w+\) and other \(\w+\) {message}"):
        check_comparable(runs.systems(runs.ids["item_knn"], other))


def test_runs_with_other_candidates_are_refused(runs):
    cold = {"type": "cold", "fraction": 0.4}
    first, other = (
        runs.make("popularity", name, **{"data.split": {**cold, "candidates": name}}) for name in ("all", "cold")
    )
    with pytest.raises(UserError, match=r"differ in data\.split\.candidates: 'all' and 'cold'"):
        check_comparable(runs.systems(first, other))


def test_other_test_users_are_refused(runs):
    systems = runs.systems(runs.ids["ease"], runs.ids["item_knn"])
    ranks = systems[1].ranks
    fewer = UserRanks(ranks.users[1:], ranks.targets[1:], ranks.ranks[1:], ranks.masked[1:])
    object.__setattr__(systems[1], "ranks", fewer)
    with pytest.raises(UserError, match=r"differ in the test users or their targets \(\d+ and \d+ users\)"):
        check_comparable(systems)


def test_of_runs_with_the_same_settings_one_is_compared(runs):
    again = runs.make("ease", "again")
    assert [system.name for system in runs.systems(again, runs.ids["ease"])] == ["again"]
    with pytest.raises(UserError, match=r"runs: 1 with ranks of test users and settings of its own; give two"):
        check_comparable(runs.systems(again, runs.ids["ease"]))


@pytest.mark.parametrize("settings", [{}, {"runs": ("a",), "experiment": "laser"}])
def test_either_runs_or_an_experiment_is_named(settings):
    with pytest.raises(ValueError, match="runs and experiment: give one of them"):
        CompareJob.model_validate(settings)


def test_a_folder_of_runs_has_no_experiment(runs, repo):
    with pytest.raises(UserError, match=r"experiment: .* is a folder of runs, which has none; name the runs by runs="):
        job_main(repo)(runs.job(runs=(), experiment="laser"))


def test_an_unknown_experiment_is_refused_and_the_known_ones_are_named(tmp_path, repo):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with open_tracking(TrackingConfig(uri=uri, experiment="known")).run(Experiment(), "train", "one", {}):
        pass
    ran = subprocess.run(
        [sys.executable, repo / "jobs" / "compare.py", "experiment=nosuch", f"tracking.uri={uri}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert ran.returncode == 2 and not ran.stdout
    assert ran.stderr == f"error: experiment: 'nosuch' is not in {uri}; name one that is: Default, known\n"


def job_main(repo: Path):
    spec = importlib.util.spec_from_file_location("compare_job", repo / "jobs" / "compare.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main
