"""Cached encodings equal those computed alone, from a memory-mapped file that is there whole or not at all."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from laser.config.families.recommenders import Bert4RecConfig
from laser.data.examples import Examples
from laser.recommenders import encodings as encodings_module
from laser.recommenders.base import SequentialRecommender
from laser.recommenders.encodings import HISTORIES_PER_RECORD_BATCH, Encodings, make_encodings
from laser.recommenders.registry import build_recommender

NUM_ITEMS, WIDTH, MAX_HISTORY = 20, 8, 5


@pytest.fixture(scope="module")
def recommender() -> SequentialRecommender:
    torch.manual_seed(0)
    config = Bert4RecConfig(hidden_size=WIDTH, max_history=MAX_HISTORY, num_layers=1)
    return build_recommender(config, NUM_ITEMS).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def examples() -> Examples:
    """A little more than one record batch of histories of 1 to 8 items."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, 9, HISTORIES_PER_RECORD_BATCH + 7)
    ends = np.cumsum(lengths + 1) - 1
    item_ids = random.integers(0, NUM_ITEMS, ends[-1] + 1).astype(np.int32)
    users = np.arange(len(lengths), dtype=np.int32)
    return Examples(item_ids, users, ends - lengths, ends, item_ids[ends])


def test_a_batch_holds_the_encodings_of_the_last_items_of_each_history(recommender, examples, tmp_path: Path):
    encodings = Encodings(make_encodings(recommender, examples, tmp_path, "all"))
    assert len(encodings) == len(examples) and encodings.width == WIDTH
    indices = np.array([len(examples) - 1, 0, 5, HISTORIES_PER_RECORD_BATCH, HISTORIES_PER_RECORD_BATCH - 1, 5])
    encoding_BNC, mask_BN = encodings.batch(indices)
    assert encoding_BNC.dtype == np.float32 and mask_BN.dtype == np.bool_
    for row, index in enumerate(indices):
        history = torch.from_numpy(examples.history(int(index))[-MAX_HISTORY:].astype(np.int64))[None]
        alone = recommender.encode(history, torch.ones_like(history, dtype=torch.bool))[0].numpy()
        assert mask_BN[row].sum() == len(alone) and mask_BN[row, : len(alone)].all()
        # Worst over all 4,103 histories: 2.4e-7 on values up to 2.6 (order of summation).
        np.testing.assert_allclose(encoding_BNC[row, : len(alone)], alone, rtol=0, atol=1e-5)
        assert not encoding_BNC[row, len(alone) :].any()
        assert (encodings.last(indices)[row] == encoding_BNC[row, len(alone) - 1]).all()


def test_a_long_computation_shows_its_progress(recommender, examples, tmp_path: Path, monkeypatch, capsys):
    make_encodings(recommender, examples.take(np.arange(4)), tmp_path, "short")
    assert not capsys.readouterr().err
    monkeypatch.setattr(encodings_module, "SILENT_SECONDS", 0.0)
    make_encodings(recommender, examples, tmp_path, "all")
    assert "encode 4,103 histories by BERT4Rec: 2/2 block" in capsys.readouterr().err


def test_the_file_is_arrow_and_is_mapped_not_copied(recommender, examples, tmp_path: Path):
    path = make_encodings(recommender, examples, tmp_path, "all")
    before = pa.total_allocated_bytes()
    encodings = Encodings(path)
    encodings.batch(np.arange(9))
    assert pa.total_allocated_bytes() == before
    schema = pa.ipc.open_file(pa.memory_map(str(encodings.path))).schema
    assert schema.field("encoding").type == pa.large_list(pa.list_(pa.float32(), WIDTH))


def test_a_second_request_reads_the_file_of_the_first(recommender, examples, tmp_path: Path):
    few = examples.take(np.arange(4))
    path = make_encodings(recommender, few, tmp_path, "few")
    os.utime(path, (1, 1))
    assert make_encodings(recommender, few, tmp_path, "few").stat().st_mtime == 1
    with pytest.raises(AssertionError, match="belongs to others"):
        make_encodings(recommender, examples, tmp_path, "few")


def test_items_are_histories_of_one(recommender, tmp_path: Path):
    path = make_encodings(recommender, Examples.of_items(NUM_ITEMS), tmp_path, "items")
    encoding_BNC, mask_BN = Encodings(path).batch(np.arange(NUM_ITEMS))
    assert encoding_BNC.shape == (NUM_ITEMS, 1, WIDTH) and mask_BN.all()


def test_an_interrupted_computation_leaves_nothing_to_be_taken_for_whole(recommender, examples, tmp_path: Path):
    broken = examples.take(np.arange(4))
    broken.item_ids[broken.starts[2]] += NUM_ITEMS * 2  # no such item: the embedding refuses it
    with pytest.raises(IndexError):
        make_encodings(recommender, broken, tmp_path, "few")
    broken.item_ids[broken.starts[2]] -= NUM_ITEMS * 2
    assert [path.name for path in tmp_path.iterdir()] == ["few.arrow.lock"]
    assert len(Encodings(make_encodings(recommender, broken, tmp_path, "few"))) == 4


def test_two_requests_at_once_compute_once(recommender, examples, tmp_path: Path):
    calls = []
    hook = recommender.encoder.register_forward_hook(lambda *_: calls.append(1))
    with ThreadPoolExecutor(2) as pool:  # the lock holds between threads as between processes
        futures = [
            pool.submit(make_encodings, recommender, examples.take(np.arange(4)), tmp_path, "few") for _ in range(2)
        ]
        assert [len(Encodings(future.result())) for future in futures] == [4, 4]
    hook.remove()
    assert len(calls) == 1
