"""What files hold, in a few characters: hashes that stand for a file's content in the names of what is made of it.

A large file is read once: its hash is remembered beside the size, the times and the inode that the file had then.
"""

import hashlib
import json
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from laser.errors import UserError
from laser.storage.cache import looks_only
from laser.storage.files import write_json

REMEMBERED_BYTES = 1 << 20
"""Smaller files are read each time; that is as quick as looking them up."""
SETTLED_SECONDS = 2.0
"""A file that changed so recently may change again without a new time: file systems count in steps of up to 2 s."""


def file_hash(path: Path, cache_dir: Path | None = None) -> str:
    """Return the SHA-256 of a file.

    Args:
        path: the file.
        cache_dir: its folder `hashes` remembers large files; None, or a cache that cannot be written, remembers none.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        state = _state(path)
        memory = None
        if cache_dir is not None and state["size"] >= REMEMBERED_BYTES:
            name = hashlib.sha256(str(path.absolute()).encode(errors="surrogateescape")).hexdigest()[:24]
            memory = cache_dir / "hashes" / f"{name}.json"
            known = _remembered(memory)
            if known.get("state") == state:
                return str(known["sha256"])
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        settled = time.time_ns() - max(state["mtime_ns"], state["ctime_ns"]) > SETTLED_SECONDS * 1e9
        if memory is not None and settled and _state(path) == state:
            _remember(memory, {"path": str(path.absolute()), "state": state, "sha256": digest})
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; let this account read it, or name another one") from error
    return digest


def folder_hash(directory: Path, suffixes: Collection[str], cache_dir: Path | None = None) -> str:
    """Return a hash of the names and bytes of a folder's own files that have one of the suffixes."""
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix in suffixes and path.is_file())
    except OSError as error:
        raise UserError(f"{directory}: {error.strerror}; let this account read it, or name another one") from error
    files = [[path.name, file_hash(path, cache_dir)] for path in paths]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _state(path: Path) -> dict[str, int]:
    """Return what changes when a file's content does. Nobody sets the last time, ctime, by hand."""
    status = path.stat()
    return {
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "inode": status.st_ino,
        "device": status.st_dev,
    }


def _remembered(memory: Path) -> dict[str, Any]:
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(memory: Path, known: dict[str, Any]) -> None:
    if looks_only():
        return
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_json(memory, known)
    except OSError:
        return  # a cache that is read-only or full: the file is read again next time


def module_hash(name: str) -> str | None:
    """Return a hash of a Python module's file, which is looked for and not run; None where there is no such file."""
    path = Path(*name.split(".")).with_suffix(".py")
    files = (Path(folder) / path for folder in sys.path)
    return next((file_hash(file) for file in files if file.is_file()), None)
