"""RecBole's atomic files: `<name>.inter` and `<name>.item`, tab-separated, with typed headers (`user_id:token`)."""

from pathlib import Path

from laser.config.schema import DataConfig
from laser.data.ingest.interactions import Workspace
from laser.data.ingest.tables import DelimitedFile
from laser.data.sources.base import RawData
from laser.data.sources.tabular import _only, _read


def read_recbole(directory: Path, config: DataConfig, workspace: Workspace) -> RawData:
    """Read the `.inter` and `.item` files of a folder."""
    interactions = DelimitedFile(_only(directory, "*.inter"), "\t", typed_header=True)
    items = DelimitedFile(_only(directory, "*.item"), "\t", typed_header=True)
    return _read(directory, config, workspace, interactions, items, "user_id", "item_id")
