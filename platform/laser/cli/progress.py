"""Progress of long work on standard error: a bar in a terminal, plain lines in a log."""

import logging
import os
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Generic, TypeVar

from tqdm import tqdm

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOG_INTERVAL_SECONDS = 10.0
SILENT_SECONDS = 5.0
"""Work that is often short shows nothing until it has taken so long."""


class progress(Generic[T]):  # noqa: N801, used like a function
    """Iterate over `items` and show the progress.

        with progress(batches, "stage 1 epoch 1", "step") as steps:
            for batch in steps:
                ...
                steps.note(loss=0.12)

    Args:
        items: a sized collection.
        label: names the work.
        unit: names one item.
        enabled: false shows nothing; only the first of several workers shows progress.
        silent_seconds: work that ends within this time shows nothing.
    """

    def __init__(
        self, items: Collection[T], label: str, unit: str, enabled: bool = True, silent_seconds: float = 0.0
    ) -> None:
        self.items, self.label, self.unit, self.enabled = items, label, unit, enabled
        self.silent_seconds = silent_seconds
        self.terminal = enabled and sys.stderr.isatty()
        self.notes: dict[str, float] = {}
        self.done = self.printed = 0

    def __enter__(self) -> "progress[T]":
        self.started = time.monotonic()
        self.next_line = self.started + (self.silent_seconds or LOG_INTERVAL_SECONDS)
        if self.terminal:
            shape = {"total": len(self.items), "desc": self.label, "unit": self.unit}
            self.bar = tqdm(**shape, file=sys.stderr, leave=False, delay=self.silent_seconds)
        return self

    def __iter__(self) -> Iterator[T]:
        for item in self.items:
            yield item
            self.done += 1
            if self.terminal:
                self.bar.set_postfix({name: f"{value:.4g}" for name, value in self.notes.items()}, refresh=False)
                self.bar.update()
            elif self.enabled and time.monotonic() >= self.next_line:
                self._print()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.terminal:
            self.bar.close()
        long_enough = time.monotonic() - self.started >= self.silent_seconds
        if self.enabled and long_enough and (self.done != self.printed or not self.done):
            self._print()

    def note(self, **values: float) -> None:
        """Show figures beside the progress from now on."""
        self.notes.update(values)

    def _print(self) -> None:
        now, self.printed = time.monotonic(), self.done
        self.next_line, seconds = now + LOG_INTERVAL_SECONDS, now - self.started
        rate = self.done / seconds if seconds > 0 else 0.0
        notes = "".join(f", {name} {value:.4g}" for name, value in self.notes.items())
        line = (
            f"{self.label}: {self.done}/{len(self.items)} {self.unit}, {seconds:.0f} s, {rate:.2f} {self.unit}/s{notes}"
        )
        sys.stderr.write(f"{line}\n")  # Ray Train replaces print() in its workers by one that also logs
        sys.stderr.flush()


@contextmanager
def waiting(label: str) -> Iterator[None]:
    """Show the time that work without steps has taken, once that is `SILENT_SECONDS`: a line in any case."""
    started, ended, shown = time.monotonic(), Event(), Event()

    def show() -> None:
        wait = SILENT_SECONDS
        while not ended.wait(wait):
            tqdm.write(f"{label}: {time.monotonic() - started:.0f} s, not done yet", file=sys.stderr)
            shown.set()
            wait = LOG_INTERVAL_SECONDS

    thread = Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if shown.is_set():
        tqdm.write(f"{label}: done, {time.monotonic() - started:.0f} s", file=sys.stderr)


@cache
def log_once_reached(what: str) -> None:
    """Log, the first time in this process, how many seconds after its start something is reached (Linux only)."""
    stat = Path("/proc/self/stat")
    if stat.exists():
        started = int(stat.read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        logger.info("%s %.1f s after the process started", what, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
