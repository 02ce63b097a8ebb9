"""How much memory a block of code takes at most, as Linux counts it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    counts = _reset()
    yield peak
    if counts:
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        peak.mib = int(line.split()[1]) / 1024


def _reset() -> bool:
    try:
        CLEAR.write_text(RESET_PEAK)
    except OSError:
        return False
    return True
