"""Pairs of CSV or Parquet files: `interactions` (user, item, timestamp, and rating where one filters by it) and `items`
(item, title, any attributes)."""

from pathlib import Path

from laser.config.schema import DataConfig
from laser.data.ingest.interactions import Workspace
from laser.data.ingest.tables import DelimitedFile, ParquetFile, TableFile
from laser.data.sources.base import RawData
from laser.data.sources.tabular import _only, _read


def read_pairs(directory: Path, config: DataConfig, workspace: Workspace) -> RawData:
    """Read `interactions.{csv,parquet}` and `items.{csv,parquet}`."""
    interactions, items = _csv_or_parquet(directory, "interactions"), _csv_or_parquet(directory, "items")
    return _read(directory, config, workspace, interactions, items, "user", "item")


def _csv_or_parquet(directory: Path, name: str) -> TableFile:
    path = _only(directory, f"{name}.csv", f"{name}.parquet")
    return DelimitedFile(path, ",", typed_header=False) if path.suffix == ".csv" else ParquetFile(path)
