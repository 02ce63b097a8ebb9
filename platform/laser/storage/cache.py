"""What is made once: written aside under a lock, and renamed into a place whose name says what went into it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from laser.storage.locks import exclusive


def make_once(place: Path, make: Callable[[Path], object]) -> bool:
    """Have a file or folder made, unless it is there.

    Safe when several processes ask at once: one makes it, the others wait and find it. What is at `place` is whole: an
    interrupted or failed attempt leaves nothing there, and the next one starts over.

    Args:
        place: the file or folder. Its name holds the key of all that its content depends on.
        make: writes the file, or makes the folder and fills it, at the path that it is given, in the same folder.

    Returns:
        Whether it was made by this call.
    """
    if place.exists():  # without the lock, which a cache that may only be read does not give
        return False
    with exclusive(place.with_name(f"{place.name}.lock")):
        if place.exists():
            return False
        aside = place.with_name(f".{place.name}.writing")
        _remove(aside)  # of a killed process: the lock says that nobody writes there now
        try:
            make(aside)
            os.replace(aside, place)
        finally:
            _remove(aside)
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
