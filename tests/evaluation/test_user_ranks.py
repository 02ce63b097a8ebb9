"""Ranks per user: metrics with and without the history, the whole of it; the Parquet file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from laser.data.examples import Examples
from laser.errors import UserError
from laser.evaluation.user_ranks import UserRanks, read_ranks
from laser.recommenders.base import SequentialRecommender
from laser.recommenders.ranks import recommender_ranks

USER_RANKS = UserRanks(*(np.array(values) for values in ([3, 7], [5, 1], [3, 11], [1, 10])))


class HighestIdFirst(SequentialRecommender):
    """Scores each item by its id, whatever the history."""

    def encode(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        raise AssertionError("ranks are those of scores")

    def item_embeddings(self) -> np.ndarray:
        raise AssertionError("ranks are those of scores")

    def scores(self, item_ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        assert item_ids_BN.shape[1] <= self.max_history
        return torch.arange(self.num_items, dtype=torch.float32).expand(len(item_ids_BN), -1)

    def loss(self, item_ids_BN: Tensor, mask_BN: Tensor, generator: torch.Generator) -> Tensor:
        raise AssertionError("ranks are those of scores")

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


def test_metrics_by_hand():
    # 1/log2(4) = 0.5; 1/log2(11) = 0.2890648263.
    assert USER_RANKS.metrics() == pytest.approx(
        {
            "recall@10": 0.5, "ndcg@10": 0.25, "mrr": (1 / 3 + 1 / 11) / 2,
            "recall@10_masked": 1.0, "ndcg@10_masked": (1 + 0.2890648263178879) / 2, "mrr_masked": (1 + 1 / 10) / 2,
        },
        rel=1e-12,
    )  # fmt: skip


def test_the_file_holds_what_was_written(tmp_path: Path):
    path = tmp_path / "ranks" / "test.parquet"
    USER_RANKS.write(path)
    read = read_ranks(path)
    for name in ("users", "targets", "ranks", "masked"):
        assert getattr(read, name).tolist() == getattr(USER_RANKS, name).tolist()
    assert read.lists_EK is None
    with pytest.raises(UserError, match="no such file"):
        read_ranks(tmp_path / "other.parquet")


def test_lists_are_one_more_column_of_the_file(tmp_path: Path):
    path = tmp_path / "test.parquet"
    lists_EK = np.array([[4, 2, 9], [9, 4, 0]], dtype=np.int32)
    ours = replace(USER_RANKS, lists_EK=lists_EK, num_items=16)
    ours.write(path)
    table = pq.read_table(path)
    assert table.column_names == ["user_id", "target", "rank", "rank_masked", "items"]
    assert table.schema.field("items").type == pa.list_(pa.int32())
    assert table.column("items").to_pylist() == lists_EK.tolist()
    read = read_ranks(path)
    assert read.num_items == 16 and read.lists_EK is not None and read.lists_EK.dtype == np.int32
    assert np.array_equal(read.lists_EK, lists_EK)
    assert read.metrics() == ours.metrics() and read.metrics()["coverage@10"] == 4 / 16


def test_files_of_other_columns_or_uneven_lists_are_refused(tmp_path: Path):
    path = tmp_path / "test.parquet"
    pq.write_table(pa.table({"user_id": [1], "items": [[1]]}), path)
    with pytest.raises(UserError, match="columns"):
        read_ranks(path)
    replace(USER_RANKS, lists_EK=np.zeros((2, 3), dtype=np.int32), num_items=16).write(path)
    table = pq.read_table(path)
    uneven = pa.array([[1], [1, 2, 3]], pa.list_(pa.int32()))
    pq.write_table(table.set_column(4, table.schema.field("items"), uneven), path)
    with pytest.raises(UserError, match="items: lists of 1 to 3 items"):
        read_ranks(path)


def test_a_recommender_lists_its_best_items_when_asked():
    item_ids = np.array([9, 8, 2, 5], dtype=np.int32)
    examples = Examples(item_ids, np.zeros(1, dtype=np.int32), np.array([0]), np.array([3]), item_ids[3:])
    recommender = HighestIdFirst(num_items=12, hidden_size=1, max_history=2)
    assert recommender_ranks(recommender, examples).lists_EK is None
    listed = recommender_ranks(recommender, examples, lists=True)
    assert listed.lists_EK is not None and listed.lists_EK.tolist() == [[11, 10, 9, 8, 7, 6, 5, 4, 3, 2]]
    assert listed.metrics()["coverage@10"] == 10 / 12


def test_the_whole_history_is_masked_not_only_what_the_recommender_reads():
    item_ids = np.array([9, 8, 2, 5, 1, 9, 9, 3, 7], dtype=np.int32)
    starts, ends = np.array([0, 4]), np.array([3, 8])
    examples = Examples(item_ids, np.arange(2, dtype=np.int32), starts, ends, item_ids[ends])
    ranks = recommender_ranks(HighestIdFirst(num_items=10, hidden_size=1, max_history=2), examples)
    # Item 5 stands behind 9, 8, 7 and 6, of which 9 and 8 leave; item 7 behind 9 and 8, of which 9 leaves, once.
    assert ranks.ranks.tolist() == [5, 3]
    assert ranks.masked.tolist() == [3, 2]
    again = recommender_ranks(HighestIdFirst(num_items=10, hidden_size=1, max_history=2), examples.last(1))
    assert again.masked.tolist() == [3, 2]
    assert recommender_ranks(
        HighestIdFirst(num_items=10, hidden_size=1, max_history=2), examples.last(1).take(np.array([1]))
    ).masked.tolist() == [2]


def test_a_target_among_the_own_history_ranks_last():
    item_ids = np.array([4, 1, 4], dtype=np.int32)
    examples = Examples(item_ids, np.zeros(1, dtype=np.int32), np.array([0]), np.array([2]), item_ids[2:])
    ranks = recommender_ranks(HighestIdFirst(num_items=10, hidden_size=1, max_history=1), examples)
    assert (ranks.ranks.tolist(), ranks.masked.tolist()) == ([6], [10])
