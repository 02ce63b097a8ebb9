"""Pairs of CSV or Parquet files, one of interactions and one of items.

`interactions` has columns for user, item and timestamp, and for the rating where `data.min_rating` is set. `items` has
columns for item and title; all others are attributes.
"""

from pathlib import Path

from laser.config.schema import DataConfig
from laser.data.ingest.interactions import Workspace
from laser.data.ingest.tables import DelimitedFile, ParquetFile, TableFile
from laser.data.sources.base import RawData
from laser.data.sources.tabular import matching_file, read_tables

FILES = "interactions.csv or .parquet"


def recognises(names: set[str]) -> bool:
    """Whether a folder with files of these names has this layout."""
    return any(name.startswith("interactions.") for name in names)


def read(directory: Path, config: DataConfig, workspace: Workspace) -> RawData:
    """Read `interactions.{csv,parquet}` and `items.{csv,parquet}`."""
    interactions, items = _csv_or_parquet(directory, "interactions"), _csv_or_parquet(directory, "items")
    return read_tables(directory, config, workspace, interactions, items, "user", "item")


def _csv_or_parquet(directory: Path, name: str) -> TableFile:
    path = matching_file(directory, f"{name}.csv", f"{name}.parquet")
    return DelimitedFile(path, ",", typed_header=False) if path.suffix == ".csv" else ParquetFile(path)
