"""Requests from caches, and the bytes that these take, on random histories."""

from pathlib import Path

import pytest

from laser.benchmarks.suites import run_suite
from laser.config.compose import load_config
from laser.config.jobs import BenchmarkJob
from tiny.histories import USERS, save_histories


def test_requests_are_timed_from_memory_file_and_ids_and_bytes_are_counted(tmp_path: Path):
    data = save_histories(tmp_path / "data")
    job = load_config(
        BenchmarkJob,
        [
            "suite=serve", f"data={data}", f"cache_dir={tmp_path / 'cache'}", "benchmark.rounds=1",
            "recommender.type=collective_sasrec", "recommender.max_epochs=1", "recommender.hidden_size=8",
            "recommender.pool_size=4",
        ],
        None,
    )  # fmt: skip
    result = run_suite(job)
    assert [row["requests"] for row in result.rows][:3] == ["memory, 1", "cold file, 1", "ids, 1"]
    assert len(result.rows) == 6 and all(row["ms"] > 0 for row in result.rows)  # 512 users there are none
    assert result.figures["item_bytes"] == 2 * (2 * 2 * 2 + 2 * 2)  # two layers: two numbers and a pointer, twice
    # Histories of 5 to 8 items, of which the last is the target, and the one before it is kept as an id.
    rows = (result.figures["user_bytes"] - 4) / result.figures["item_bytes"]
    assert 3 <= rows <= 6 and rows * USERS == pytest.approx(round(rows * USERS))
    assert 0 < result.figures["rows_used"] <= 1 and 0 < result.figures["gate"] < 1
