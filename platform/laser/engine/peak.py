"""How much memory this process has taken at most, as Linux counts it."""

import ctypes
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
    """Measure the block's peak of resident memory, pages of mapped files and garbage included."""
    peak = Peak()
    try:
        _note_peak()
        reset_peak()
    except OSError:
        yield peak
        return
    _running.append(peak)
    try:
        yield peak
    finally:
        _note_peak()
        _running.remove(peak)


_running: list[Peak] = []
"""Blocks that have begun and not ended; one may lie within another, and begins to count anew for itself alone."""


def _note_peak() -> None:
    for peak in _running:
        peak.mib = max(peak.mib or 0.0, resident_mib("VmHWM"))


def reset_peak() -> None:
    """Give freed memory back to the system, and begin to count the peak anew.

    Raises:
        OSError: the system does not count it.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc, which else keeps what another training freed
    if trim is not None:
        trim(0)
    CLEAR.write_text(RESET_PEAK)


def resident_mib(which: Literal["VmRSS", "VmHWM"]) -> float:
    """Return the resident memory now (VmRSS), or its peak (VmHWM), in MiB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{which}:"))
    return int(line.split()[1]) / 1024
