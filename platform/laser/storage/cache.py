"""The cache: each entry is made once, written aside under a lock, and renamed into a place that its key names."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from laser.errors import UserError
from laser.storage.locks import exclusive

_LOOKS_ONLY: ContextVar[bool] = ContextVar("looks_only", default=False)


class NotMadeError(UserError):
    """What is asked for is not in the cache, and nothing is to be made."""


@contextmanager
def nothing_made() -> Iterator[None]:
    """Within the block nothing is made, fetched or remembered; `make_once` raises NotMadeError for what is missing."""
    token = _LOOKS_ONLY.set(True)
    try:
        yield
    finally:
        _LOOKS_ONLY.reset(token)


def looks_only() -> bool:
    """Return whether this is within `nothing_made`."""
    return _LOOKS_ONLY.get()


def make_once(place: Path, make: Callable[[Path], object]) -> bool:
    """Make a file or folder unless it is there.

    Several processes may ask at once: one makes it, and the others wait and find it. Whatever is at `place` is whole.
    An interrupted or failed attempt leaves nothing there, and the next one starts over.

    Args:
        place: the file or folder. Its name holds a key of everything that its content depends on.
        make: writes the file, or makes and fills the folder, at the path that it is given. That path is beside `place`.

    Returns:
        Whether this call made it.

    Raises:
        UserError: it is missing, and the cache cannot be written, or its disk is full.
        NotMadeError: it is missing, within `nothing_made`.
    """
    lock = place.with_name(f"{place.name}.lock")
    try:
        if place.exists():  # no lock is taken, because a read-only cache does not give one
            return False
        if looks_only():
            raise NotMadeError(f"{place}: not made yet")
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise UserError(
            f"cache_dir: {error.filename}: {error.strerror}; name a folder that can be made and written"
        ) from error
    with exclusive(lock):
        if place.exists():
            return False
        aside = place.with_name(f".{place.name}.writing")
        _remove(aside)  # left by a killed process; under the lock nobody else writes there
        try:
            make(aside)
            os.replace(aside, place)
        except Exception as error:
            if _is_full(error):
                raise UserError(
                    f"cache_dir: {place.parent}: no space left on the disk; free some, or name a folder on another disk"
                ) from error
            raise
        finally:
            _remove(aside)
    return True


def _is_full(error: Exception) -> bool:
    """Return whether a disk or a quota is full; safetensors tells so in words alone."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or f"os error {errno.ENOSPC}" in str(error)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
