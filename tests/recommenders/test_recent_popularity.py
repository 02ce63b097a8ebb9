"""Popularity with decay, by hand, and the days that it reads: of which unit times are, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from laser.config.families.recommenders import RecentPopularityConfig
from laser.config.schema import DataConfig
from laser.data.dataset import Dataset
from laser.errors import UserError
from laser.recommenders.training import train_recommender
from laser.sources.prepare import prepare_dataset

DAY = 86_400
START = 1_500_000_000
BOUGHT = {"a": [("x", 0), ("y", 4), ("x", 10), ("z", 40), ("y", 41)], "b": [("z", 20), ("y", 8), ("z", 50), ("x", 60)]}
"""User → item and day. The last two of each in time are held out, so training ends on day 10 for a and 20 for b."""


def dataset(folder: Path, unit: int, start: int = START) -> Dataset:
    rows = [f"{user},{item},{(start + day * DAY) * unit}" for user, bought in BOUGHT.items() for item, day in bought]
    (folder / "interactions.csv").write_text("\n".join(["user,item,timestamp", *rows]) + "\n")
    (folder / "items.csv").write_text("item,title\nx,X\ny,Y\nz,Z\n")
    return prepare_dataset(DataConfig(path=str(folder)), folder / "cache")


def without_times(folder: Path) -> Dataset:
    """Write what RecFormer's layout holds of such users, which has no times."""
    content = {
        "meta_data": {item: {"title": item.upper()} for item in "xyz"},
        "smap": {"x": 0, "y": 1, "z": 2},
        "umap": {"a": 0, "b": 1},
        "train": {"0": [0, 1, 0], "1": [1, 2]},
        "val": {"0": [2], "1": [2]},
        "test": {"0": [1], "1": [0]},
    }
    for name, mapping in content.items():
        (folder / f"{name}.json").write_text(json.dumps(mapping))
    return prepare_dataset(DataConfig(path=str(folder)), folder / "cache")


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000, 1_000_000_000])
def test_an_interaction_counts_half_after_each_half_life(unit, tmp_path):
    data = dataset(tmp_path, unit)
    model, result = train_recommender(RecentPopularityConfig(half_life_days=10.0), data)
    scores_I = model.scores(torch.tensor([[0]]), torch.tensor([[True]]))[0]
    by_title = dict(zip(data.items.column("title").to_pylist(), scores_I.tolist(), strict=True))
    # Ages from day 20: x of a 20 and 10 days, y of a 16 and of b 12, z of b none.
    expected = {"X": 2.0**-2 + 2.0**-1, "Y": 2.0**-1.6 + 2.0**-1.2, "Z": 1.0}
    assert by_title == pytest.approx(expected, rel=1e-6)
    assert result.statistics == 3
    assert np.array_equal(model.item_embeddings()[:, 0], np.log1p(scores_I.numpy()))


@pytest.mark.parametrize(("unit", "start"), [(None, START), (1, 0), (60, START)], ids=["none", "since 0", "sixtieths"])
def test_times_that_are_missing_or_no_dates_are_refused(unit, start, tmp_path):
    data = without_times(tmp_path) if unit is None else dataset(tmp_path, unit, start)
    assert data.days is None
    with pytest.raises(
        UserError, match=r"data\.path: .* has no times that are dates .* or a recommender that needs none"
    ):
        train_recommender(RecentPopularityConfig(), data)
