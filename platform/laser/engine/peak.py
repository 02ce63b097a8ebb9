"""How much memory this process has taken at most, as Linux counts it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""What the kernel takes to begin counting anew (proc(5))."""


class Peak:
    """Holds the result of `peak_memory` after its block."""

    mib: float | None = None
    """Most resident memory during the block, what was there before included; None where the system does not say."""


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure the block's peak of resident memory, pages of mapped files included."""
    peak = Peak()
    try:
        reset_peak()
        counts = True
    except OSError:
        counts = False
    yield peak
    if counts:
        peak.mib = resident_mib("VmHWM")


def reset_peak() -> None:
    """Begin to count the peak anew.

    Raises:
        OSError: the system does not count it.
    """
    CLEAR.write_text(RESET_PEAK)


def resident_mib(which: Literal["VmRSS", "VmHWM"]) -> float:
    """Return the resident memory now (VmRSS), or its peak (VmHWM), in MiB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{which}:"))
    return int(line.split()[1]) / 1024
