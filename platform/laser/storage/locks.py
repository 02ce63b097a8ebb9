"""Locks: one process at a time does work that several want to do at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from laser.errors import UserError


class Held(Exception):
    """Another process holds the lock."""


@contextmanager
def exclusive(lock: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock on a file, which is created with its folder. The system frees it however the process ends.

    Args:
        lock: the file; nothing is written into it.
        wait: wait until the lock is free.

    Raises:
        Held: the lock is not free, and `wait` is false.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=-1 if wait else 0):
            yield
    except Timeout as error:
        raise Held(str(lock)) from error


@contextmanager
def held(directory: Path, work: str) -> Iterator[None]:
    """Hold a directory for this process. The system frees it however the process ends.

    Args:
        directory: of a run or sweep.
        work: what another process may be doing with it, such as `trains this run`.

    Raises:
        UserError: another process holds it.
    """
    try:
        with exclusive(directory / "lock", wait=False):
            yield
    except Held:
        raise UserError(f"{directory}: another process {work}; wait for it or stop it") from None
