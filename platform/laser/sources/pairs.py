"""Pairs of tables, one of interactions and one of items: delimited text, gzipped or plain, or Parquet.

`interactions` has columns for user, item and timestamp, and for the rating where `data.min_rating` is set. In its place
there may be `train`, `valid` and `test`, a split in the order of time. `items` has columns for item and title; all
others are attributes. A folder of Parquet files is a table too.
"""

import os
from pathlib import Path

from laser.config.schema import DataConfig
from laser.ingest.interactions import Workspace
from laser.ingest.parts import ParquetParts
from laser.ingest.tables import DelimitedFile, ParquetFile, TableFile
from laser.sources.base import RawData, only_one, readable
from laser.sources.columns import first_of
from laser.sources.tabular import read_tables

FILES = "interactions.csv or .parquet"
PATTERNS = ("interactions*", "items*", "train*", "val*", "test*")
SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
VALIDATION = ("valid", "val", "validation")


def recognises(names: set[str]) -> bool:
    """Whether a folder with files of these names has this layout."""
    split = {f"{name}{suffix}" for name in ("train", "test") for suffix in ("", *SUFFIXES)}
    return any(name.startswith("interactions.") for name in names) or bool(names & split) or "interactions" in names


def read(directory: Path, config: DataConfig, workspace: Workspace) -> RawData:
    """Read the table `items`, and `interactions` or the three of a given split."""
    split = not _found(directory, "interactions") and (_found(directory, "train") or _found(directory, "test"))
    tables = (("train",), VALIDATION, ("test",)) if split else (("interactions",),)
    files = [_table(directory, *names) for names in tables]
    items, columns = _table(directory, "items"), files[0].column_names
    user, item = first_of(columns, "user", "user_id", "userId"), first_of(columns, "item", "item_id", "itemId")
    return read_tables(directory, config, workspace, files, items, user, item)


def _found(directory: Path, *names: str) -> list[Path]:
    """Return the files that may be the table, and folders of its parts."""
    paths = [directory / f"{name}{suffix}" for name in names for suffix in SUFFIXES]
    folders = [directory / name for name in names if (directory / name).is_dir()]
    return [path for path in paths if os.path.lexists(path)] + folders


def _table(directory: Path, *names: str) -> TableFile:
    path = only_one(directory, _found(directory, *names), " or ".join(f"{names[0]}{suffix}" for suffix in SUFFIXES))
    if path.is_dir() and path.suffix in ("", ".parquet"):
        return ParquetParts(path)
    readable(path)
    return ParquetFile(path) if path.suffix == ".parquet" else DelimitedFile(path, None, typed_header=False)
