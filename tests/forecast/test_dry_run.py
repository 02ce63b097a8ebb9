"""A dry run says what a training will be, and leaves nothing behind."""

from pathlib import Path

import pytest

from laser.config.compose import with_overrides
from laser.config.schema import Experiment, TuneExperiment
from laser.forecast.dry_run import describe_search, describe_training
from laser.training.prepare import make_artifacts
from tiny.histories import save_histories
from tiny.training import train


@pytest.fixture
def config(tmp_path: Path, tiny_llm: Path, monkeypatch: pytest.MonkeyPatch) -> TuneExperiment:
    """A search of seconds in an empty working directory."""
    changes = {
        "data.path": str(save_histories(tmp_path / "data")), "llm.source": str(tiny_llm), "llm.compile": False,
        "llm.dtype": "fp32", "prompt.max_history_items": 4, "recommender.type": "sasrec", "recommender.max_epochs": 1,
        "recommender.hidden_size": 8, "mformer.num_layers": 1, "mformer.hidden_size": 16, "mformer.num_heads": 2,
        "mformer.num_virtual_tokens": 3, "training.num_workers": 0, "training.stage1_epochs": 2,
        "training.stage2_epochs": 1, "training.batch_size": 16, "cache_dir": str(tmp_path / "cache"),
        "space": {"mformer.num_experts": {"choice": [2, 3]}, "mformer.num_virtual_tokens": {"choice": [3, 4, 5]}},
    }  # fmt: skip
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return with_overrides(TuneExperiment(), changes)


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("placement", ["before", "after"])
def test_a_training_is_what_its_dry_run_said(config, tmp_path, placement):
    experiment = Experiment.model_validate(config.model_dump(include=set(Experiment.model_fields)))
    experiment = with_overrides(experiment, {"bituning.prefix_position": placement})
    before = files(tmp_path)
    unknown = describe_training(experiment)
    assert files(tmp_path) == before  # not even a cache
    assert unknown["missing"] == ["the data (jobs/prepare.py)"] and unknown["seconds"] is None
    rows: list[dict[str, float]] = []
    outcome = train(experiment, tmp_path / "run", lambda metrics, epoch: rows.append(dict(metrics)))
    assert unknown["parameters"]["trainable"] == outcome.trainable_parameters  # known without the data
    before = files(tmp_path)
    known = describe_training(experiment)
    assert files(tmp_path) == before
    assert known["missing"] == [] and known["parameters"] == unknown["parameters"]
    assert known["config"]["mformer"]["num_virtual_tokens"] == 3
    assert known["seconds"] is not None and known["memory_mib"].keys() == {"zero_stage=0"}
    if placement == "before":
        assert known["tokens"]["train"] == sum(row.get("tokens", 0) for row in rows)


def test_a_dry_search_counts_its_trials(config, tmp_path):
    make_artifacts(config)
    before = files(tmp_path)
    grid = describe_search(config)
    drawn = describe_search(with_overrides(config, {"search.algorithm": "optuna", "search.num_samples": 5}))
    assert files(tmp_path) == before
    assert (grid["num_trials"], drawn["num_trials"]) == (6, 5)
    assert [trial["name"] for trial in grid["trials"]][:2] == ["K=2 L=3", "K=2 L=4"]
    assert len({trial["parameters"]["trainable"] for trial in grid["trials"]}) == 6
    assert grid["seconds"] >= 6 * 20
