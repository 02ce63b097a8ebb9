"""Places that a job will write to, checked before any long work."""

import os
import shutil
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


def check_file(path: Path, setting: str) -> None:
    """Refuse a file to write that is a folder, or whose folder cannot be made or written.

    Raises:
        UserError: names the setting and the remedy.
    """
    if path.is_dir():
        raise UserError(f"{setting}: {path} is a folder; name a file")
    check_place(path.parent, setting)


def check_new_folder(path: Path, setting: str) -> None:
    """Refuse a folder that is there already, or whose parent cannot be made or written; make the parent.

    Raises:
        UserError: names the setting and the remedy.
    """
    if os.path.lexists(path):
        raise UserError(f"{setting}: {path} is there already; name another folder, or remove it")
    check_place(path.parent, setting)
    path.parent.mkdir(parents=True, exist_ok=True)


def check_free(path: Path, needed: int, setting: str, what: str) -> None:
    """Refuse a disk that has no room for what will lie in a folder.

    Args:
        path: the folder, there or not.
        needed: bytes that it will take beyond what it holds.
        setting: names the folder in the message.
        what: says what takes them.

    Raises:
        UserError: names the setting, the disk's folder, the sizes and the remedy.
    """
    place = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise UserError(
            f"{setting}: {place} has {free / 2**20:,.0f} MiB free and {what} take {needed / 2**20:,.0f} more; "
            f"free space or set {setting} to another disk"
        )
