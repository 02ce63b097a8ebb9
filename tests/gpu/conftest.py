"""Each test here runs on a GPU, skipped without one, and on the CPU by the same code as far as that goes.

Nothing here needs a network, a cache or more than torch, transformers, numpy and pyarrow, so that it runs from a
bundle.
"""

from pathlib import Path

import pytest
import torch

from laser.config.compose import validate
from laser.config.schema import Experiment
from tiny.histories import save_histories
from tiny.laser import BASE

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(scope="session")
def raw_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random histories in RecFormer's layout."""
    return save_histories(tmp_path_factory.mktemp("raw") / "tiny")


@pytest.fixture(scope="session")
def experiment(tiny_llm: Path, raw_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """An experiment in float32 on the random histories; a step takes milliseconds."""
    return validate(
        Experiment,
        {
            "cache_dir": str(tmp_path_factory.mktemp("cache")),
            "data": {"path": str(raw_data), "k_core": 1},
            "prompt": {"attributes": [], "instruction": "Sum up", "max_history_items": 6, "max_item_tokens": 8},
            "llm": {"source": str(tiny_llm), "dtype": "fp32", "compile": False},
            "recommender": {"type": "sasrec", "hidden_size": 8, "max_epochs": 1},
            "mformer": BASE.mformer.model_dump(),
            "training": {"num_workers": 0, "batch_size": 8, "learning_rate": 1e-3},
        },
    )
