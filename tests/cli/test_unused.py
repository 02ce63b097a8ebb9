"""Settings that nothing reads are named; the project's own configurations have none."""

import sys
from pathlib import Path

import pytest

from laser.cli.job import run_job
from laser.cli.unused import refuse_unused, unused_settings
from laser.config.compose import flatten, load_config, with_overrides
from laser.config.jobs import BenchmarkJob
from laser.config.schema import Experiment, TuneExperiment
from laser.errors import UserError

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").rglob("*.yaml"))


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        ("mformer.num_experts=3", []),
        ("bituning.prefix=free mformer.num_experts=3 mformer.num_virtual_tokens=5", ["mformer.num_experts"]),
        ("bituning.prefix=none mformer.num_virtual_tokens=5", ["mformer.num_virtual_tokens"]),
        ("bituning.prefix=projection recommender.type=sasrec mformer.num_virtual_tokens=5", []),
        ("bituning.prefix=projection mformer.num_layers=3", ["mformer.num_layers"]),
        ("bituning.projection_width=7", ["bituning.projection_width"]),
        ("bituning.prefix=none recommender.type=sasrec", ["recommender.type"]),
        ("bituning.prefix=none recommender.dropout=0.4", ["recommender.dropout"]),
        ("bituning.prefix=none recommender.type=none", []),
        ("bituning.prefix=none recommender.type=sasrec head.collaborative=true", []),
        ("bituning.prefix=free training.load_balance_weight=0.1", ["training.load_balance_weight"]),
        ("head.shared=false head.dropout=0.1", ["head.shared", "head.dropout"]),
        ("head.shared=false head.dropout=0.1 head.width=4", []),
        ("warm_start.patience=3", ["warm_start.patience"]),
        ("training.num_negatives=3", ["training.num_negatives"]),
        ("training.stage0_epochs=1 training.num_negatives=3", []),
        (
            "training.stage0_epochs=1 training.negatives=in_batch training.num_negatives=3",
            ["training.num_negatives"],
        ),
        ("training.llm_learning_rate=0.1", ["training.llm_learning_rate"]),
        ("training.llm_learning_rate=0.1 finetuning.type=lora", []),
        ("training.num_workers=0 training.zero_stage=3", ["training.zero_stage"]),
        ("training.min_learning_rate_factor=0.2", ["training.min_learning_rate_factor"]),
    ],
)
def test_settings_that_nothing_reads_are_named(arguments, keys):
    assert list(unused_settings(load_config(Experiment, arguments.split(), None))) == keys


def test_what_a_search_varies_may_be_read_in_some_trial():
    def unused(*arguments: str) -> list[str]:
        return list(unused_settings(load_config(TuneExperiment, ["space.mformer.num_experts=null", *arguments], None)))

    free = "bituning.prefix=free"
    assert unused("mformer.num_experts=3", free) == ["mformer.num_experts"]
    assert unused("mformer.num_experts=3", free, "space.bituning.prefix={choice: [free, mformer]}") == []
    assert unused("space.head.dropout={choice: [0.1, 0.2]}") == ["head.dropout"]
    assert unused("search.num_samples=3") == ["search.num_samples"]


@pytest.mark.parametrize(
    ("base", "key", "values", "why"),
    [
        ({"bituning.prefix": "free"}, "mformer.num_experts", [2, 4], "bituning.prefix is free"),
        ({"bituning.prefix": "none"}, "mformer.num_virtual_tokens", [2, 4], "bituning.prefix is none"),
        ({"bituning.prefix": "free"}, "recommender.hidden_size", [32, 64], "bituning.prefix is free and head.collab"),
        ({}, "warm_start.learning_rate", [0.1, 0.2], "warm_start.epochs is 0"),
        ({}, "name", ["a", "b"], "it says where a run is kept"),
        ({}, "output_dir", ["a", "b"], "it says where a run is kept"),
        ({}, "tracking.experiment", ["a", "b"], "it says where a run is kept"),
    ],
)
def test_a_space_over_what_nothing_reads_is_refused(base, key, values, why):
    with pytest.raises(UserError, match=f"space.{key}: changes nothing, because {why}"):
        refuse_unused([key], with_overrides(Experiment(), base), [{key: value} for value in values])


def test_a_setting_that_one_of_the_trials_reads_may_vary():
    pairs = [(prefix, experts) for prefix in ("free", "mformer") for experts in (2, 4)]
    trials = [{"bituning.prefix": prefix, "mformer.num_experts": experts} for prefix, experts in pairs]
    refuse_unused(["bituning.prefix", "mformer.num_experts"], Experiment(), trials)
    refuse_unused(["warm_start.epochs", "head.width"], Experiment(), [{"warm_start.epochs": 1, "head.width": 8}])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_projects_configurations_set_nothing_in_vain(path):
    schema = {"tune": TuneExperiment, "benchmark": BenchmarkJob}.get(path.parent.name, Experiment)
    config = load_config(schema, [f"config={path}"], None)
    unused = unused_settings(config).keys()
    if path.parent.name == "ways":  # all have one base, of which each reads its part
        base = flatten(load_config(schema, [f"config={path.with_name('_base.yaml')}"], None))
        unused = {key for key in unused if flatten(config)[key] != base.get(key)}
    assert not unused


def test_a_job_says_it_in_one_line(caplog, monkeypatch):
    def ended(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(sys, "exit", ended)
    with pytest.raises(SystemExit):
        run_job(lambda config: {}, Experiment, None, ["head.dropout=0.1", "warm_start.patience=3"])
    assert [record.getMessage() for record in caplog.records] == [
        "without effect here: head.dropout (head.width is null), warm_start.patience (warm_start.epochs is 0)"
    ]
