"""Data prepared under each split: what trains, what is wanted, what is refused, and which names stay."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from laser.config.schema import DataConfig
from laser.data.dataset import Dataset
from laser.errors import UserError
from laser.families.popularity import Popularity
from laser.ingest import cuts, interactions, order, streams
from laser.recommenders.base import SequentialRecommender
from laser.recommenders.ranks import recommender_ranks
from laser.sources.prepare import prepare_dataset
from tiny.histories import save_histories

SPLITS = {
    "temporal": {"type": "temporal", "val_fraction": 0.2, "test_fraction": 0.2},
    "ratio": {"type": "ratio"},
    "cold": {"type": "cold", "fraction": 0.2},
    "cold alone": {"type": "cold", "fraction": 0.2, "candidates": "cold"},
}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 users, 60 items and 4,000 interactions at random times, some of them equal."""
    folder = tmp_path_factory.mktemp("log")
    random = np.random.default_rng(0)
    rows = zip(
        random.integers(0, 300, 4000), random.integers(0, 60, 4000), random.integers(-500, 500, 4000), strict=True
    )
    (folder / "interactions.csv").write_text(
        "user,item,timestamp\n" + "".join(f"u{user},i{item},{time}\n" for user, item, time in rows)
    )
    (folder / "items.csv").write_text("item,title\n" + "".join(f"i{item},Title {item}\n" for item in range(60)))
    return folder


def prepared(folder: Path, cache: Path, split: dict | None = None, **settings) -> Dataset:
    raw = {"path": str(folder), **({"split": split} if split else {}), **settings}
    return prepare_dataset(DataConfig.model_validate(raw), cache)


def row_times(dataset: Dataset, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Times of the targets of a split, and of all training interactions."""
    assert dataset.times is not None
    examples = dataset.examples(split)
    sequences = zip(dataset.offsets[:-1], dataset.num_train_items, strict=True)
    trained = np.concatenate([dataset.times[start : start + size] for start, size in sequences])
    return dataset.times[examples.ends], trained


def test_leave_one_out_has_the_name_and_the_fingerprint_that_it_had_without_a_setting(log, tmp_path):
    """The fingerprint stands in keys of recorded results; this one was made before there were splits."""
    dataset = prepared(log, tmp_path, {"type": "leave_one_out"})
    assert dataset.fingerprint == "6075e596261f3fe5"
    assert "split" not in dataset.manifest["source"]
    assert set(dataset.manifest) == {
        "schema_version", "name", "fingerprint", "num_users", "num_items", "num_interactions", "rejected", "source",
        "files",
    }  # fmt: skip


@pytest.mark.parametrize("name", SPLITS)
def test_each_split_is_a_dataset_of_its_own_and_is_found_again(name, log, tmp_path):
    plain, dataset = prepared(log, tmp_path), prepared(log, tmp_path, SPLITS[name])
    assert dataset.path != plain.path and dataset.fingerprint != plain.fingerprint
    assert prepared(log, tmp_path, SPLITS[name]).path == dataset.path
    assert dataset.facts()["split"] == dataset.split.type == SPLITS[name]["type"]
    assert all(len(dataset.examples(split)) for split in ("train", "val", "test"))  # type: ignore[arg-type]


def test_temporal_has_one_cut_for_all(log, tmp_path):
    dataset = prepared(log, tmp_path, SPLITS["temporal"])
    assert dataset.times is not None
    val_time, test_time = dataset.manifest["cuts"]
    assert [val_time, test_time] == np.sort(dataset.times)[[2400, 3200]].tolist()
    val_targets, trained = row_times(dataset, "val")
    test_targets, _ = row_times(dataset, "test")
    assert trained.max() < val_time <= val_targets.min()
    assert val_targets.max() < test_time <= test_targets.min()
    test = dataset.examples("test")
    assert all(dataset.times[test.starts[row] : test.ends[row]].max() < test_time for row in range(len(test)))


def test_the_cuts_are_exact_in_bounded_memory(log, tmp_path, monkeypatch):
    monkeypatch.setattr(order, "BLOCK_ROWS", 500)  # several blocks of users
    roomy = prepared(log, tmp_path / "roomy", SPLITS["temporal"])
    monkeypatch.setattr(cuts, "BINS", 7)
    monkeypatch.setattr(streams, "BLOCK_BYTES", 10_000)
    spilled = []
    get = interactions.Interactions.__getitem__
    monkeypatch.setattr(
        interactions.Interactions, "__getitem__", lambda self, number: spilled.append(self.spilled) or get(self, number)
    )
    tight = prepared(log, tmp_path / "tight", SPLITS["temporal"], memory_mib=1)
    assert all(spilled) and spilled
    assert tight.fingerprint == roomy.fingerprint and tight.manifest["cuts"] == roomy.manifest["cuts"]


def test_times_that_span_all_of_64_bits_are_divided(tmp_path):
    low, high = -(2**63) + 1, 2**63 - 1
    folder = tmp_path / "wide"
    folder.mkdir()
    times = [low, low + 1, 0, 1, high - 1, high]
    rows = [f"u{number % 2},i{number % 3},{time}\n" for number, time in enumerate(times)]
    (folder / "interactions.csv").write_text("user,item,timestamp\n" + "".join(rows))
    (folder / "items.csv").write_text("item,title\n" + "".join(f"i{item},Title\n" for item in range(3)))
    dataset = prepared(folder, tmp_path / "cache", {"type": "temporal", "val_fraction": 0.34, "test_fraction": 0.34})
    assert dataset.manifest["cuts"] == [times[1], times[3]]


def test_targets_of_the_cold_split_are_never_trained_on(log, tmp_path):
    dataset = prepared(log, tmp_path, SPLITS["cold"])
    val, test = dataset.examples("val"), dataset.examples("test")
    wanted = np.concatenate([val.targets, test.targets])
    assert (dataset.train_counts[wanted] == 0).all() and not set(val.targets) & set(test.targets)
    histories = np.concatenate([test.history(row) for row in range(len(test))])
    assert (dataset.train_counts[histories] > 0).all()
    assert dataset.num_items == 60 and dataset.candidates is None
    assert dataset.num_interactions + dataset.manifest["rejected"]["interactions_outside_split"] == 4000


def test_cold_items_alone_are_ranked_where_they_alone_are_candidates(log, tmp_path):
    dataset = prepared(log, tmp_path, SPLITS["cold alone"])
    whole = prepared(log, tmp_path, SPLITS["cold"])
    assert dataset.fingerprint != whole.fingerprint
    assert dataset.candidates is not None and len(dataset.candidates) == 12
    assert "12 cold items alone: a random order has Recall@10 0.833" in dataset.facts()["notes"][1]
    test = dataset.examples("test")
    dense = _Fixed(dataset.num_items)
    ranks = recommender_ranks(dense, test, lists=True)
    scores = dense.scores_I.numpy()[dataset.candidates]
    by_hand = [(scores >= dense.scores_I[target].item()).sum() for target in test.targets]
    assert ranks.ranks.tolist() == by_hand and ranks.num_items == 12
    assert ranks.lists_EK is not None
    assert ranks.lists_EK[0].tolist() == dataset.candidates[np.argsort(-scores)][:10].tolist()


def test_sparse_scores_are_ranked_among_the_candidates_too(log, tmp_path):
    from laser.config.families.recommenders import ItemKNNConfig
    from laser.recommenders.registry import build_recommender

    dataset = prepared(log, tmp_path, SPLITS["cold alone"])
    model = build_recommender(ItemKNNConfig(), dataset.num_items)
    model.fit([dataset.train_items(user) for user in range(dataset.num_users)])
    ranks = recommender_ranks(model, dataset.examples("test"), lists=True)
    assert (
        ranks.ranks == 12
    ).all()  # no cold item occurs with another one: all scores are 0, and ties count against it
    assert ranks.lists_EK is not None and set(ranks.lists_EK.ravel()) <= set(dataset.candidates.tolist())


def test_popularity_finds_no_cold_item(log, tmp_path):
    dataset = prepared(log, tmp_path, SPLITS["cold"])
    model = Popularity(dataset.num_items, 50)
    model.fit([dataset.train_items(user) for user in range(dataset.num_users)])
    assert (recommender_ranks(model, dataset.examples("test")).ranks == dataset.num_items).all()


def test_a_summary_says_that_the_future_is_let_in(log, tmp_path):
    notes = {name: prepared(log, tmp_path, split).facts()["notes"] for name, split in SPLITS.items()}
    notes["leave_one_out"] = prepared(log, tmp_path).facts()["notes"]
    assert notes.pop("temporal") == []
    assert all(json.dumps(lines).count("arXiv 2507.16289") == 1 for lines in notes.values())


def test_temporal_is_refused_without_timestamps(tmp_path):
    folder = save_histories(tmp_path / "timeless")  # RecFormer's layout, which has a split of its own
    with pytest.raises(UserError, match=r"data\.split\.type: temporal; the data have no timestamps; .*ratio or cold"):
        prepared(folder, tmp_path / "cache", SPLITS["temporal"])


def test_a_split_of_the_source_is_kept_unless_another_one_is_named(tmp_path):
    folder = save_histories(tmp_path / "given")
    given, by_ratio = (prepared(folder, tmp_path / "cache", split) for split in (None, SPLITS["ratio"]))
    assert given.num_interactions == by_ratio.num_interactions
    assert (np.diff(given.offsets) - given.num_train_items == 2).all()  # these have one item for each split
    assert (np.diff(by_ratio.offsets) - by_ratio.num_train_items == 2).all()  # a tenth of 5 to 8 is one item
    assert by_ratio.fingerprint == given.fingerprint  # so the splits are the same, and so are results


def test_temporal_is_refused_where_all_times_are_equal(tmp_path):
    folder = tmp_path / "instant"
    folder.mkdir()
    (folder / "interactions.csv").write_text("user,item,timestamp\n" + "".join(f"u,i{n},5\n" for n in range(4)))
    (folder / "items.csv").write_text("item,title\n" + "".join(f"i{n},Title\n" for n in range(4)))
    with pytest.raises(UserError, match=r"data\.split\.val_fraction: 0\.2.*the same time; change the fractions"):
        prepared(folder, tmp_path / "cache", SPLITS["temporal"])


class _Fixed(SequentialRecommender):
    """Gives each item the same score for everybody."""

    def __init__(self, num_items: int) -> None:
        super().__init__(num_items, hidden_size=1, max_history=50)
        self.register_buffer("scores_I", torch.randperm(num_items, generator=torch.Generator().manual_seed(1)).float())

    def scores(self, item_ids_BN, mask_BN):
        return self.scores_I.expand(len(item_ids_BN), -1)

    def encode(self, item_ids_BN, mask_BN):
        raise NotImplementedError

    def item_embeddings(self):
        raise NotImplementedError
