"""Suite prepare: raw data to a prepared dataset, ours beside a pandas script, each in a process of its own.

Both read the same files: CSV pairs, and a gzipped dump of Amazon reviews. A check ensures that both write the same
sequences. Seconds leave out the start of Python and the imports. Processor seconds add up all threads; on a shared
machine they say more than seconds do.
"""

import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

import laser
from laser.benchmarks.generated import generate
from laser.benchmarks.measure import Timing, ratio, take_turns
from laser.benchmarks.suites import BenchmarkResult
from laser.config.jobs import BenchmarkJob
from laser.ingest.streams import line_blocks, open_text

logger = logging.getLogger(__name__)

LAYOUTS = ("pairs", "amazon")
K_CORE = 5
"""The paper's."""


def run(job: BenchmarkJob) -> BenchmarkResult:
    """Measure both layouts; `benchmark.rounds=1 benchmark.warmup_rounds=0` suffices if a round takes minutes."""
    config = job.benchmark
    source = generate(config.interactions, Path(job.cache_dir).expanduser())
    rows: list[dict[str, Any]] = []
    figures: dict[str, Any] = {"interactions": config.interactions, "memory_mib_setting": job.data.memory_mib}
    for layout in LAYOUTS:
        with tempfile.TemporaryDirectory(prefix=".prepare-", dir=source.parent) as folder:
            found: dict[str, list[dict[str, Any]]] = {"ours": [], "script": []}

            def contest(name: str, layout: str = layout, folder: str = folder) -> Callable[[], object]:
                return lambda: found[name].append(_contestant(name, layout, source, Path(folder), job))  # noqa: B023

            take_turns({name: contest(name) for name in found}, config.rounds, config.warmup_rounds)
            counted = {name: results[config.warmup_rounds :] for name, results in found.items()}
            _check_equal(*(Path(results[-1]["dataset"]) for results in counted.values()))
        timing = {name: Timing(tuple(result["seconds"] for result in results)) for name, results in counted.items()}
        figures[layout] = {
            "ratio": ratio(timing["script"], timing["ours"]),
            "floor_seconds": _floor(source / layout),
            **{name: _figures(timing[name], counted[name], config.interactions) for name in found},
        }
        for name, time_taken in timing.items():
            rows.append({"layout": layout, "contestant": name, **figures[layout][name], "seconds": time_taken.median})
    return BenchmarkResult(figures, rows)


def _contestant(name: str, layout: str, source: Path, folder: Path, job: BenchmarkJob) -> dict[str, Any]:
    target = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder)) / "made"
    arguments = [name, layout, str(source / layout), str(target), str(K_CORE), str(job.data.memory_mib)]
    environment = os.environ | {"PYTHONPATH": str(Path(laser.__path__[0]).parent)}
    done = subprocess.run(
        [sys.executable, "-m", "laser.benchmarks.contestants.preparation", *arguments],
        env=environment, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    logger.info("%s %s: %.1f s, peak %.0f MiB", layout, name, figures["seconds"], figures["peak_mib"])
    return figures


def _figures(timing: Timing, results: list[dict[str, Any]], num_interactions: int) -> dict[str, Any]:
    return {
        "seconds": timing.as_figures(),
        "cpu_seconds": round(statistics.median(result["cpu_seconds"] for result in results), 3),
        "interactions_per_second": round(timing.per_second(num_interactions)),
        "peak_mib": round(max(result["peak_mib"] for result in results)),
        "peak_beyond_baseline_mib": round(max(result["peak_mib"] - result["baseline_mib"] for result in results)),
    }


def _floor(folder: Path) -> float:
    """Return the seconds that one thread needs to read and decompress the bytes, and to do nothing else."""
    started = time.perf_counter()
    for path in sorted(folder.iterdir()):
        with open_text(path) as file:
            for _ in line_blocks(file, path):
                pass
    return round(time.perf_counter() - started, 3)


def _check_equal(ours: Path, theirs: Path) -> None:
    """Assert that both have the same users with the same sequences and splits."""
    made = []
    for folder in (ours, theirs):
        table = pq.read_table(folder / "sequences.parquet", columns=["raw_id", "items", "timestamps"])
        splits = pq.read_table(folder / "splits.parquet", columns=["train_end", "val_end", "test_end"])
        order = pc.sort_indices(table.column("raw_id"))
        made.append([column.take(order) for column in (*table.columns, *splits.columns)])
    for mine, other in zip(*made, strict=True):
        assert mine.equals(other.cast(mine.type)), f"{ours} and {theirs} differ: this compares different work"
