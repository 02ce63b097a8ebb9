"""Provides a whole experiment that takes seconds."""

import pytest

from laser.config.compose import validate
from laser.config.schema import Experiment
from laser.training.inputs import Inputs
from laser.training.prepare import prepare_inputs
from tiny.laser import BASE


@pytest.fixture(scope="session")
def experiment(tiny_llm, cache, tmp_path_factory) -> Experiment:
    """Return an experiment on real histories of MovieLens-100K with a random two-layer LLM; a run takes seconds."""
    return validate(
        Experiment,
        {
            "cache_dir": str(cache),
            "output_dir": str(tmp_path_factory.mktemp("runs")),
            "data": {"k_core": 60},
            "prompt": {"attributes": [], "instruction": "Sum up", "max_history_items": 3, "max_item_tokens": 8},
            "llm": {"source": str(tiny_llm), "dtype": "fp32", "compile": False},
            "recommender": {"type": "sasrec", "hidden_size": 8, "max_epochs": 1},
            "mformer": BASE.mformer.model_dump(),
            "training": {
                "num_workers": 0, "stage1_epochs": 1, "stage2_epochs": 1, "batch_size": 15, "micro_batch_size": 8,
                "learning_rate": 1e-2, "train_users": 30, "validation_users": 30, "test": False,
            },
        },
    )  # fmt: skip


@pytest.fixture(scope="session")
def inputs(experiment) -> Inputs:
    return prepare_inputs(experiment)
