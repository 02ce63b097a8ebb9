"""Files that are there whole or not at all, even when a process is killed."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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
