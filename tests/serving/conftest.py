"""Whole trained models that take seconds, each with its recorded run in a real store, and their packages."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from laser.config.compose import validate, with_overrides
from laser.config.paths import with_absolute_paths
from laser.config.schema import Experiment, TrackingConfig
from laser.evaluation.user_ranks import TEST_RANKS, UserRanks, read_ranks
from laser.serving.opening import packaged_run
from laser.serving.package import Package
from laser.tracking.run import Run
from laser.tracking.runs import Tracking, open_tracking
from laser.training.inputs import Inputs
from laser.training.prepare import prepare_inputs
from laser.training.run.outcome import run_results
from laser.training.train import run_tags, train_laser
from tiny.laser import BASE

VARIANTS: dict[str, dict[str, Any]] = {
    "before": {},
    "after": {"bituning.prefix_position": "after", "prompt.item_attention": "own"},
    "after, causal": {"bituning.prefix_position": "after", "bituning.prefix": "projection"},
    "stack": {
        "recommender": {
            "type": "stack",
            "fitted": {"type": "item_knn", "hidden_size": 4},
            "trained": {"type": "sasrec", "hidden_size": 8, "max_epochs": 1},
        },
        "head.width": 8, "head.collaborative": True, "head.history_bias": True, "head.standardise": True,
        "bituning.init": "eos", "training.stage2_epochs": 0,
    },
    "joined": {
        "recommender": {
            "type": "stack",
            "fitted": {"type": "item_knn", "hidden_size": 4},
            "trained": {"type": "sasrec", "hidden_size": 8, "max_epochs": 1},
        },
        "head.width": 8, "head.text_width": 6, "head.collaborative": True, "head.joins": "after",
        "head.history_bias": True, "training.stage2_epochs": 0,
    },
    "no recommender": {"recommender": {"type": "none"}, "bituning.prefix": "free"},
}  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """A run that has ended, and its model."""

    config: Experiment
    inputs: Inputs
    run: Run
    package: Package
    ranks: UserRanks
    """What the run has recommended to the test users."""


@pytest.fixture(scope="session")
def serving_experiment(tiny_llm: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """An experiment on real histories with a random two-layer LLM; item texts have an attribute."""
    return validate(
        Experiment,
        {
            "cache_dir": str(cache),
            "output_dir": str(tmp_path_factory.mktemp("runs")),
            "data": {"k_core": 60},
            "prompt": {"instruction": "Sum up", "max_history_items": 3, "max_item_tokens": 8},
            "llm": {"source": str(tiny_llm), "dtype": "fp32", "compile": False},
            "recommender": {"type": "sasrec", "hidden_size": 8, "max_epochs": 1},
            "mformer": BASE.mformer.model_dump(),
            "training": {
                "num_workers": 0, "stage1_epochs": 1, "stage2_epochs": 1, "batch_size": 15, "micro_batch_size": 8,
                "learning_rate": 1e-2, "train_users": 30, "validation_users": 30,
            },
        },
    )  # fmt: skip


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    return open_tracking(TrackingConfig(uri=f"sqlite:///{path}"))


@pytest.fixture(scope="session")
def train(store: Tracking, cache: Path) -> Callable[[Experiment], Trained]:
    """Trains, records and packages a model."""

    def train(config: Experiment) -> Trained:
        config = with_absolute_paths(config)
        inputs, run_dir = prepare_inputs(config), Path(config.output_dir) / config.name
        with store.run(config, "train", config.name, run_tags(config, inputs.artifacts)) as run:
            train_laser(config, inputs.artifacts, run_dir, run.report)
            run.record(run_results(run_dir))
        return Trained(config, inputs, run, packaged_run(run, cache), read_ranks(run_dir / TEST_RANKS))

    return train


@pytest.fixture(scope="session")
def trained(serving_experiment: Experiment, train: Callable[[Experiment], Trained]) -> Callable[[str], Trained]:
    """The model of a variant, trained once."""
    known: dict[str, Trained] = {}

    def of(variant: str) -> Trained:
        if variant not in known:
            number = list(VARIANTS).index(variant)
            known[variant] = train(with_overrides(serving_experiment, {"name": f"v{number}", **VARIANTS[variant]}))
        return known[variant]

    return of
