"""Suite gpu: all that a machine with one GPU shows within minutes, the most instructive first.

Each part stands by itself. Its figures get into `benchmark.gpu_results` as soon as it ends, so a cut loses only what
was running. A part that fails is written down with its error, and the others go on. No part starts after
`benchmark.gpu_seconds`.
"""

import gc
import json
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from laser.benchmarks.gpu_parts.speed import Speed
from laser.benchmarks.gpu_parts.training import plan_trainings
from laser.benchmarks.suites import BenchmarkResult
from laser.cli.job import AllFailedError
from laser.config.jobs import BenchmarkJob
from laser.errors import UserError
from laser.storage.files import write_json

logger = logging.getLogger(__name__)

Figures = Mapping[str, Any]


def run(job: BenchmarkJob) -> BenchmarkResult:
    """Run the parts in their order, while there is time."""
    device = torch.device("cuda" if job.training.use_gpu else "cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "training.use_gpu: true, but torch finds no GPU; set it to false with benchmark.gpu_scale=small"
        )
    started, seconds = time.perf_counter(), job.benchmark.gpu_seconds

    def left() -> float:
        return seconds - (time.perf_counter() - started)

    speed = Speed(job, device)
    parts: dict[str, Callable[[], Figures]] = {
        "device": speed.device_bounds,
        "before": speed.before,
        "late": speed.late,
        "captured": lambda: speed.late(capture=True),
        "inference": speed.inference,
        **plan_trainings(job, left),
    }
    results = Results(Path(job.benchmark.gpu_results), device)
    for name, part in parts.items():
        if left() <= 0:
            results.add(name, {"skipped": f"benchmark.gpu_seconds={seconds:.0f} were over"})
            continue
        logger.info("part %s, %.0f s left", name, left())
        results.add(name, measured(part, device))
    if all("error" in part or "skipped" in part for part in results.parts.values()):
        raise AllFailedError("suite gpu: every part failed; the tracebacks are above", results.content)
    return BenchmarkResult({"parts": results.parts, "seconds": round(seconds - left(), 1)}, list(rows(results.parts)))


def measured(part: Callable[[], Figures], device: torch.device) -> dict[str, Any]:
    """Run one part; return its figures with time and memory or, if it fails, the error."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    try:
        figures = dict(part())
    except Exception as error:
        logger.error("%s", traceback.format_exc())
        figures = {"error": f"{type(error).__name__}: {error}"[:2000]}
    figures["seconds"] = round(time.perf_counter() - started, 1)
    gc.collect()
    if device.type == "cuda":
        figures["peak_gpu_mib"] = torch.cuda.max_memory_allocated(device) >> 20
        torch.cuda.empty_cache()
    return figures


class Results:
    """The figures so far, in memory and on disk."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path, self.parts = path, dict[str, dict[str, Any]]()
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        self.surroundings = {"device": name, "torch": torch.__version__}
        path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def content(self) -> dict[str, Any]:
        return {**self.surroundings, "parts": self.parts}

    def add(self, name: str, figures: dict[str, Any]) -> None:
        """Take the figures of a part, and write all that is known so far."""
        self.parts[name] = figures
        write_json(self.path, self.content)
        logger.info("part %s: %s", name, json.dumps(figures))


def rows(parts: Mapping[str, Figures]) -> Iterator[dict[str, Any]]:
    """Yield a line for each part: what became of it, how long it took, and its first figures."""
    for name, figures in parts.items():
        state = next((word for word in ("error", "skipped", "cut") if figures.get(word)), "done")
        plain = [
            f"{key} {value:.4g}" for key, value in figures.items() if isinstance(value, float) and key != "seconds"
        ]
        yield {
            "part": name,
            "state": state,
            "seconds": figures.get("seconds", 0.0),
            "figures": "; ".join(plain[:4]),
        }
