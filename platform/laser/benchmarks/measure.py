"""How a speed is measured: contestants take turns, the first rounds warm up, medians and spread are kept.

A shared machine slows down and speeds up during a measurement. Contestants that take turns meet the same conditions, so
their ratio is reliable even when their seconds are not.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from laser.cli.progress import progress
from laser.cli.tables import markdown_table
from laser.engine.peak import reset_peak, resident_mib

Work = Callable[[], object]
PEAK_SIZE = 2048
"""Rows and columns of the square matrices whose product sets the peak; 3 × 8 MiB in bf16."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one contestant, one value for each counted round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def per_second(self, amount: float) -> float:
        """Return units of work per second, at the median."""
        return amount / self.median

    def as_figures(self) -> dict[str, float]:
        """Return median and range, rounded to microseconds."""
        return spread(self.seconds, 6)


def take_turns(contestants: Mapping[str, Work], rounds: int, warmup: int = 1) -> dict[str, Timing]:
    """Run and time each contestant once a round; every other round has the reverse order.

    Args:
        contestants: name → work; a call does all of the work and waits for its end.
        rounds: counted rounds.
        warmup: rounds before them that are not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    with progress(range(warmup + rounds), "measure", "round") as numbers:
        for number in numbers:
            for name in names if number % 2 else reversed(names):
                started = time.perf_counter()
                contestants[name]()
                if number >= warmup:
                    seconds[name].append(time.perf_counter() - started)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def ratio(slower: Timing, faster: Timing, more: float = 1.0) -> dict[str, float]:
    """Return how many times faster the second is: the median of the rounds' own ratios, and their range.

    Args:
        slower: seconds of the first.
        faster: seconds of the second.
        more: times as much work as the first that the second does in a round.
    """
    ratios = [more * ours / theirs for ours, theirs in zip(slower.seconds, faster.seconds, strict=True)]
    return spread(ratios, 3)


def spread(values: Sequence[float], digits: int) -> dict[str, float]:
    """Return median and range, rounded to so many digits."""
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, digits) for name, value in found.items()}


def matrix_product(dtype: torch.dtype, device: torch.device, size: int = PEAK_SIZE) -> tuple[Work, float]:
    """Return a large square matrix product and its number of operations, the yardstick of utilisation."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    result = torch.empty_like(left)

    def multiply() -> None:
        torch.mm(left, right, out=result)
        wait(device)

    return multiply, 2.0 * size**3


def peak_mib(work: Callable[[], object]) -> float:
    """Return the most MiB that the call adds to this process's resident memory (Linux, glibc)."""
    gc.collect()
    reset_peak()  # the call cannot reuse, unseen, what was freed before
    before = resident_mib("VmRSS")
    work()
    return resident_mib("VmHWM") - before


def wait(device: torch.device) -> None:
    """Wait until the device has done its work; a CPU has done it already."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows with the same keys as a table; the first column is text."""
    return markdown_table(list(rows[0]), [[_text(value) for value in row.values()] for row in rows]) if rows else ""


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
