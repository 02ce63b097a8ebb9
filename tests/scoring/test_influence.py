"""What the influence of users depends on, on a small dataset of which the held-out items can be changed."""

import json
from pathlib import Path

import numpy as np
import pytest

from laser.config.families.selection import DealrecUsers, SurrogateConfig
from laser.config.schema import DataConfig
from laser.data.dataset import Dataset
from laser.scoring.influence import influence
from laser.sources.prepare import prepare_dataset
from tiny.histories import ITEMS, USERS, save_histories

SURROGATE = SurrogateConfig(hidden_size=4, max_epochs=2, max_history=5)


def dataset_of(folder: Path, held_out: int) -> Dataset:
    """The histories of `tiny.histories`, whose held-out items are moved on by a number."""
    save_histories(folder)
    for split in ("val", "test"):
        path = folder / f"{split}.json"
        moved = {user: [(items[0] + held_out) % ITEMS] for user, items in json.loads(path.read_text()).items()}
        path.write_text(json.dumps(moved))
    return prepare_dataset(DataConfig(path=str(folder)), folder.parent / "cache")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> tuple[Dataset, Dataset]:
    place = tmp_path_factory.mktemp("influence")
    return dataset_of(place / "one", 0), dataset_of(place / "other", 1)


def influences(dataset: Dataset, users: np.ndarray, cache: Path, **settings) -> np.ndarray:
    config = DealrecUsers(num_users=5, surrogate=SURROGATE, **settings)
    return influence(config, dataset, users, 0, cache).column.values


def test_held_out_items_enter_no_influence_but_that_on_the_validation_risk(datasets, tmp_path):
    one, other = datasets
    assert one.fingerprint != other.fingerprint
    users = np.arange(USERS, dtype=np.int32)
    train = influences(one, users, tmp_path)
    np.testing.assert_array_equal(train, influences(other, users, tmp_path))
    assert (train > 0).any() and (train < 0).any() and train.sum() > 0
    on_validation = influences(one, users, tmp_path, risk="validation")
    assert not np.allclose(on_validation, influences(other, users, tmp_path, risk="validation"))
    assert not np.allclose(on_validation, train)


def test_influence_is_cached_under_what_went_in_and_comes_with_what_it_took(datasets, tmp_path):
    users = np.arange(0, USERS, 2, dtype=np.int32)
    config = DealrecUsers(num_users=5, surrogate=SURROGATE)
    first = influence(config, datasets[0], users, 0, tmp_path).column
    assert len(first.values) == len(users)
    assert first.facts["seconds"] > 0 and first.facts["hessian_products"] > 0
    assert 0 < first.facts["gradient_ratio"] <= 1
    again = influence(config.model_copy(update={"num_users": 9, "num_groups": 3}), datasets[0], users, 0, tmp_path)
    assert again.column.facts == first.facts  # what comes after is no part of the name
    other = influence(config.model_copy(update={"scale": 5.0}), datasets[0], users, 0, tmp_path).column
    assert other.facts["seconds"] != first.facts["seconds"]
