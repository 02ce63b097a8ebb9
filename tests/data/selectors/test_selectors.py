"""The contract of a selector of training users, and what each one selects. A new selector is tested by being listed."""

import json
import sys
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pytest
from pydantic import ValidationError

from laser.config.compose import with_overrides
from laser.config.families.selection import LongestUsers, RandomUsers, RecentUsers, SelectionConfig, SomeUsers
from laser.config.identity import settings_key
from laser.config.schema import DataConfig, Experiment
from laser.data import selectors
from laser.data.dataset import Dataset
from laser.data.examples import Examples
from laser.data.selectors import registry
from laser.data.selectors.registry import SECTIONS, select
from laser.errors import UserError
from laser.sources.prepare import prepare_dataset

LOWEST = -(2**63)
TIMES = {
    "u0": [1, 2, 3, 4, 5, 6, 7],  # trains on 5 interactions, the last at 5
    "u1": [10, 11, 12, 13],  # 2, at 11
    "u2": [1, 2, 3, 4, 5, 100, 200],  # 5, at 5: what is held out is the latest of all
    "u3": [20, 21, 22, 23, 24],  # 3, at 22
    "u4": [30, 31],  # 2, at 31: nothing is held out
    "u5": [40],  # 1, from which nothing can be predicted
    "u6": [LOWEST, LOWEST],  # 2, at the earliest time that there is
}
"""Times of each user's interactions; users are numbered in this order."""


def dataset_of(folder: Path, held_out: str = "abcdefg", later: int = 0) -> Dataset:
    """A dataset of TIMES; the last two interactions of longer sequences take their items and times from arguments."""
    folder.mkdir()
    rows = []
    for user, times in TIMES.items():
        for place, time in enumerate(times):
            is_held_out = len(times) > 2 and place >= len(times) - 2
            item = held_out[place] if is_held_out else "abcdefg"[place]
            rows.append(f"{user},{item},{time + later * is_held_out}\n")
    (folder / "interactions.csv").write_text("user,item,timestamp\n" + "".join(rows))
    (folder / "items.csv").write_text("item,title\n" + "".join(f"{item},{item}\n" for item in "abcdefg"))
    return prepare_dataset(DataConfig(path=str(folder)), folder.parent / "cache")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return dataset_of(tmp_path_factory.mktemp("selectors") / "raw")


def section(name: str, num_users: int):
    cls = registry.SECTIONS[name]
    return cls(num_users=num_users) if "num_users" in cls.model_fields else cls()


def users_of(examples: Examples) -> list[int]:
    return np.unique(examples.users).tolist()


def check_contract(name: str, dataset: Dataset, tmp_path: Path) -> None:
    for every_prefix in (False, True):
        examples = dataset.examples("train", every_prefix)
        found = select(dataset, examples, section(name, 3), seed=1)
        users = users_of(found)
        assert len(users) == (3 if "num_users" in registry.SECTIONS[name].model_fields else 6)
        # All examples of the users, and in the original order.
        whole = examples.take(np.flatnonzero(np.isin(examples.users, users)))
        assert found.digest() == whole.digest()
        np.testing.assert_array_equal(found.targets, whole.targets)
        assert select(dataset, examples, section(name, 3), seed=1).digest() == found.digest()
        assert select(dataset, examples, section(name, 100), seed=1).digest() == examples.digest()
    other = dataset_of(tmp_path / "other held out", held_out="gfedcba", later=50)
    assert other.fingerprint != dataset.fingerprint
    assert users_of(select(other, other.examples("train"), section(name, 3), seed=1)) == users


@pytest.mark.parametrize("name", SECTIONS)
def test_a_selector_keeps_whole_users_in_order_and_reads_nothing_held_out(name: str, dataset: Dataset, tmp_path: Path):
    check_contract(name, dataset, tmp_path)


@pytest.mark.parametrize(
    ("config", "users"),
    [
        (LongestUsers(num_users=1), [0]),  # as long as u2, which has the higher id
        (LongestUsers(num_users=3), [0, 2, 3]),
        (LongestUsers(num_users=4), [0, 1, 2, 3]),  # of u1, u4 and u6, which are as long, the lowest id
        (RecentUsers(num_users=1), [4]),
        (RecentUsers(num_users=2), [3, 4]),
        (RecentUsers(num_users=4), [0, 1, 3, 4]),  # as late as u2
        (RecentUsers(num_users=5), [0, 1, 2, 3, 4]),
    ],
    ids=str,
)
def test_the_longest_and_the_most_recent_by_hand(dataset: Dataset, config: SomeUsers, users: list[int]):
    assert users_of(select(dataset, dataset.examples("train"), config, seed=0)) == users


def test_the_random_users_are_those_of_train_users_and_change_with_the_seed(dataset: Dataset):
    examples = dataset.examples("train")
    samples = [users_of(select(dataset, examples, RandomUsers(num_users=3), seed)) for seed in range(10)]
    assert samples == [users_of(examples.sample_users(3, seed)) for seed in range(10)]
    assert len(set(map(tuple, samples))) > 1


def test_the_most_recent_users_need_timestamps(tmp_path: Path):
    raw = tmp_path / "timeless"
    raw.mkdir()
    files = {"train": {"0": [0, 1]}, "val": {"0": [2]}, "test": {"0": [0]}, "umap": {"u": 0}}
    files |= {"smap": {"a": 0, "b": 1, "c": 2}, "meta_data": {item: {"title": item} for item in "abc"}}
    for name, content in files.items():
        (raw / f"{name}.json").write_text(json.dumps(content))
    dataset = prepare_dataset(DataConfig(path=str(raw)), tmp_path / "cache")
    with pytest.raises(UserError, match="selection.type: recent; the data timeless .* has no timestamps: .* longest"):
        select(dataset, dataset.examples("train"), RecentUsers(num_users=1), seed=0)


def test_stored_keys_are_as_before_and_a_selection_changes_them():
    base = Experiment()
    assert settings_key(base, "data") == "laser-2f8381027b"  # as it was before there were selections
    names = [section.model_fields["type"].default for section in get_args(get_args(SelectionConfig)[0])]
    keys = {"laser-2f8381027b"}
    for name in set(names) - {"all"}:
        keys.add(settings_key(with_overrides(base, {"selection.type": name, "selection.num_users": 3}), "data"))
    assert len(keys) == len(names)
    recent = with_overrides(base, {"selection.type": "recent", "selection.num_users": 3})
    assert settings_key(recent, "data") == "laser-4c8f510437"  # as it was before there were shares


def test_a_share_of_the_users_in_place_of_a_number(dataset: Dataset):
    examples = dataset.examples("train")
    assert users_of(select(dataset, examples, LongestUsers(fraction=0.5), seed=0)) == [0, 2, 3]
    assert [RandomUsers(fraction=0.01).size(10), RandomUsers(num_users=20).size(10)] == [1, 10]
    for sizes in ({}, {"num_users": 3, "fraction": 0.5}):
        with pytest.raises(ValidationError, match="give one of them"):
            LongestUsers(**sizes)


class ShortestUsers(SomeUsers):
    """Train on the users with the shortest training sequences."""

    type: Literal["shortest"] = "shortest"


SHORTEST = """
import numpy as np


def select(dataset, examples, config, seed):
    users = np.unique(examples.users)
    return examples.of_users(users[np.argsort(dataset.num_train_items[users], kind="stable")[: config.num_users]])
"""


def test_a_new_selector_is_one_module_and_its_section(dataset: Dataset, tmp_path: Path, monkeypatch):
    code = tmp_path / "code"
    code.mkdir()
    (code / "shortest.py").write_text(SHORTEST)
    monkeypatch.setattr(selectors, "__path__", [*selectors.__path__, str(code)])
    monkeypatch.setattr(registry, "SECTIONS", {**SECTIONS, "shortest": ShortestUsers})
    try:
        check_contract("shortest", dataset, tmp_path)
        config = ShortestUsers(num_users=2)
        assert users_of(select(dataset, dataset.examples("train"), config, seed=0)) == [1, 4]  # type: ignore[arg-type]
    finally:
        sys.modules.pop("laser.data.selectors.shortest", None)
        if hasattr(selectors, "shortest"):
            del selectors.shortest
