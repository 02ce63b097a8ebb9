"""RecBole's atomic files: `<name>.inter` and `<name>.item`, tab-separated, with typed headers (`user_id:token`)."""

from pathlib import Path

from laser.config.schema import DataConfig
from laser.data.ingest.interactions import Workspace
from laser.data.ingest.tables import DelimitedFile
from laser.data.sources.base import RawData
from laser.data.sources.tabular import matching_file, read_tables

FILES = ".inter file"


def recognises(names: set[str]) -> bool:
    """Whether a folder with files of these names has this layout."""
    return any(name.endswith(".inter") for name in names)


def read(directory: Path, config: DataConfig, workspace: Workspace) -> RawData:
    """Read the `.inter` and `.item` files of a folder."""
    interactions = DelimitedFile(matching_file(directory, "*.inter"), "\t", typed_header=True)
    items = DelimitedFile(matching_file(directory, "*.item"), "\t", typed_header=True)
    return read_tables(directory, config, workspace, interactions, items, "user_id", "item_id")
