"""Order in time and the k-core, block by block, beside plain ways to the same."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from laser.ingest import order
from laser.ingest.interactions import Workspace
from laser.ingest.numbering import Collector
from laser.ingest.order import by_user_and_time, k_core

NUM_USERS, NUM_ITEMS, NUM_ROWS = 80, 50, 3000


@pytest.fixture
def rows() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "user": (NUM_USERS * random.random(NUM_ROWS) ** 3).astype(np.int32),
        "item": (NUM_ITEMS * random.random(NUM_ROWS) ** 2).astype(np.int32),
        "time": random.integers(0, 40, NUM_ROWS),
    }


def blocks_of(rows: dict, folder: Path, drop_repeats: bool = False, memory: int = 1 << 30):
    workspace = Workspace(folder, memory, 1 << 20)
    interactions = workspace.interactions()
    batch = pa.record_batch([pa.array(values) for values in rows.values()], names=list(rows))
    for start in range(0, NUM_ROWS, 700):
        interactions.append(batch.slice(start, 700))
    return by_user_and_time(interactions, NUM_USERS, workspace, drop_repeats)


def together(blocks) -> dict[str, np.ndarray]:
    table = pa.Table.from_batches([blocks[number] for number in range(len(blocks))])
    return {name: table.column(name).to_numpy() for name in table.column_names}


@pytest.mark.parametrize("scale", [1, 2**45])  # the second does not fit into one word with the position
def test_blocks_are_sorted_like_lexsort(rows, tmp_path, monkeypatch, scale: int):
    monkeypatch.setattr(order, "BLOCK_ROWS", 250)
    rows["time"] = rows["time"] * scale - 5 * scale
    blocks, num_repeats = blocks_of(rows, tmp_path)
    expected = np.lexsort([rows["time"], rows["user"]])
    assert len(blocks) > 3
    assert num_repeats == 0
    for name, values in together(blocks).items():
        np.testing.assert_array_equal(values, rows[name][expected])


def test_of_repeats_the_first_stays(rows, tmp_path):
    blocks, num_repeats = blocks_of(rows, tmp_path, drop_repeats=True)
    expected = np.lexsort([rows["time"], rows["user"]])
    seen: dict[tuple, None] = {}
    for row in expected:
        seen.setdefault(tuple(int(rows[name][row]) for name in ("user", "item", "time")))
    found = together(blocks)
    assert list(zip(*(found[name].tolist() for name in ("user", "item", "time")), strict=True)) == list(seen)
    assert num_repeats == NUM_ROWS - len(seen) > 0


@pytest.mark.parametrize("k", [0, 1, 20, 60])
@pytest.mark.parametrize("memory", [1 << 30, 1 << 10])
def test_k_core_is_what_a_plain_loop_leaves(rows, tmp_path, monkeypatch, k: int, memory: int):
    monkeypatch.setattr(order, "BLOCK_ROWS", 250)
    titled = np.arange(NUM_ITEMS) % 7 != 0
    blocks, _ = blocks_of(rows, tmp_path, memory=memory)
    assert blocks.spilled == (memory == 1 << 10)
    core, num_titled = k_core(blocks, NUM_USERS, titled, k)

    users, items = (together(blocks)[name] for name in ("user", "item"))
    keep = titled[items]
    assert num_titled == keep.sum()
    while True:
        enough_users = np.bincount(users[keep], minlength=NUM_USERS) >= k
        enough_items = np.bincount(items[keep], minlength=NUM_ITEMS) >= k
        smaller = keep & enough_users[users] & enough_items[items]
        if (smaller == keep).all():
            break
        keep = smaller
    np.testing.assert_array_equal(core.users[users] & core.items[items], keep)
    np.testing.assert_array_equal(core.item_counts, np.bincount(items[keep], minlength=NUM_ITEMS))


def test_numbers_do_not_depend_on_how_much_text_waits(tmp_path):
    users = pa.chunked_array([["b", "a", "b"], ["c", "a"]])
    items = pa.chunked_array([["y", "x", "new"], ["x", "y"]])
    found = []
    for text_bytes in (8, 1 << 20):
        with ThreadPoolExecutor(1) as thread:
            collector = Collector(Workspace(tmp_path, 1 << 20, text_bytes), thread, pa.array(["x", "y"]))
            for start in range(5):
                collector.add(users.slice(start, 1), items.slice(start, 1), np.array([start]))
            assert collector.users().to_pylist() == ["b", "a", "c"]
        assert collector.num_unknown == 1
        pieces = [collector.interactions[number] for number in range(len(collector.interactions))]
        found.append(pa.Table.from_batches(pieces).to_pydict())
    assert found[0] == found[1] == {"user": [0, 1, 2, 1], "item": [1, 0, 0, 1], "time": [0, 1, 3, 4]}
