"""Places that a job will write to, checked before any long work."""

import os
import tempfile
from pathlib import Path

from laser.errors import UserError


def check_place(place: str | Path, setting: str, may_be_read_only: bool = False) -> None:
    """Refuse a folder that cannot be made or written. The check leaves nothing behind.

    Args:
        place: the folder, there or not.
        setting: names it in the message.
        may_be_read_only: a folder that is there need not be writable, as a cache that holds everything.

    Raises:
        UserError: names the setting, the folder, what stands in the way, and the remedy.
    """
    path = Path(place).expanduser().absolute()
    try:
        if may_be_read_only and path.is_dir():
            return
        _try_to_write(path)
    except OSError as error:
        raise UserError(
            f"{setting}: {place}: {error.strerror or error}; name a folder that can be made and written"
        ) from error


def _try_to_write(path: Path) -> None:
    """Write into the folder or, where it is missing, into the nearest folder above it."""
    folder = next(each for each in (path, *path.parents) if os.path.lexists(each))
    for name in path.relative_to(folder).parts:
        if len(os.fsencode(name)) > os.pathconf(folder, "PC_NAME_MAX"):
            raise OSError("File name too long")
    with tempfile.TemporaryDirectory(prefix=".laser-", dir=folder):
        pass


def check_new_folder(path: Path, setting: str) -> None:
    """Refuse a folder that is there already, or whose parent cannot be made or written; make the parent.

    Raises:
        UserError: names the setting and the remedy.
    """
    if os.path.lexists(path):
        raise UserError(f"{setting}: {path} is there already; name another folder, or remove it")
    check_place(path.parent, setting)
    path.parent.mkdir(parents=True, exist_ok=True)
