"""A small real reproduction: Table 7 on forty users who walk in circles, through a random two-layer LLM."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laser.config.compose import load_config
from laser.config.jobs import ReproduceJob
from laser.reproduction.cells import wanted_table
from laser.reproduction.run import Reproduction, look_up
from laser.tracking.cells import CellStore
from laser.tracking.runs import Tracking, open_tracking

BASE = (
    "name=tiny",
    "prompt.instruction=Sum up",
    "prompt.max_history_items=4",
    "llm.dtype=fp32",
    "llm.compile=false",
    "recommender=sasrec",
    "recommender.max_epochs=2",
    "recommender.hidden_size=8",
    "mformer.num_layers=1",
    "mformer.hidden_size=16",
    "mformer.num_heads=2",
    "training.num_workers=0",
    "training.stage1_epochs=1",
    "training.stage2_epochs=1",
    "training.batch_size=20",
)
NUM_ITEMS = 15


@pytest.fixture(scope="session")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw data: each user goes round the catalogue by a step of their own."""
    folder = tmp_path_factory.mktemp("reproduction") / "walks0"  # the dataset's name, whatever ran before
    folder.mkdir()
    random = np.random.default_rng(0)
    with (folder / "interactions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user", "item", "timestamp"])
        for user in range(40):
            start, step = random.integers(NUM_ITEMS), random.integers(1, 3)
            rows.writerows([f"u{user}", f"i{(start + step * k) % NUM_ITEMS}", k] for k in range(5 + user % 4))
    with (folder / "items.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["item", "title", "brand", "category"])
        rows.writerows(
            [f"i{item}", f"Title {item}", f"brand {item % 4}", f"kind {item % 2}"] for item in range(NUM_ITEMS)
        )
    return folder


@dataclass(frozen=True)
class Desk:
    """A place to reproduce in, with a store of its own."""

    folder: Path
    arguments: tuple[str, ...]

    @property
    def tracking(self) -> Tracking:
        return open_tracking(self.job("table=7").tracking)

    @property
    def store(self) -> CellStore:
        return CellStore(self.tracking)

    def job(self, *arguments: str) -> ReproduceJob:
        return load_config(ReproduceJob, [*self.arguments, *arguments], None)

    def look_up(self, *arguments: str, store: Any = None) -> Reproduction:
        job = self.job(*arguments)
        return look_up(job, wanted_table(job), store or self.store)


@pytest.fixture(scope="session")
def make_desk(tmp_path_factory: pytest.TempPathFactory, walks: Path, tiny_llm: Path):
    def make() -> Desk:
        folder = tmp_path_factory.mktemp("desk")
        places = (
            f"data={walks}",
            f"llm={tiny_llm}",
            f"cache_dir={folder / 'cache'}",
            f"output_dir={folder / 'runs'}",
            f"tracking.uri=sqlite:///{folder / 'mlflow.db'}",
        )
        return Desk(folder, (*places, *BASE))

    return make


@pytest.fixture(scope="session")
def desk(make_desk) -> Desk:
    return make_desk()
