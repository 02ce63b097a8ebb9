"""Files that are there whole or not at all, even when a process is killed."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from laser.errors import UserError


def short_name(name: str) -> str:
    """Return a name that may be a part of a file's name: at most 100 bytes of the 255 that file systems take."""
    return name.encode()[:100].decode(errors="ignore")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a file beside `path` to write, and rename it to `path` after the block; an earlier file is replaced."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write UTF-8 text as `whole_file` does."""
    with whole_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object as `write_whole` writes text."""
    write_whole(path, json.dumps(content, indent=1) + "\n")


def read_json_object(path: Path, remedy: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: the file holds something else; its message ends with the remedy.
    """
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, or not JSON
        raise UserError(f"{path}: not JSON ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__} instead of an object; {remedy}")
    return content


def to_disk(path: Path) -> None:
    """Return when the kernel has written a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
