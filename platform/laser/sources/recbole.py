"""RecBole's atomic files: `<name>.inter` and `<name>.item`, tab-separated, with typed headers (`user_id:token`).

RecBole's benchmark files `<name>.train.inter`, `.valid.inter` and `.test.inter` are a split, in the order of time.
"""

from pathlib import Path

from laser.config.schema import DataConfig
from laser.errors import UserError
from laser.ingest.interactions import Workspace
from laser.ingest.tables import DelimitedFile
from laser.sources.base import RawData
from laser.sources.tabular import matching_file, read_tables

FILES = ".inter file"
PATTERNS = ("*.inter", "*.item")
SPLIT = ("*.train.inter", "*.valid.inter", "*.test.inter")


def recognises(names: set[str]) -> bool:
    """Whether a folder with files of these names has this layout."""
    return any(name.endswith(".inter") for name in names)


def read(directory: Path, config: DataConfig, workspace: Workspace) -> RawData:
    """Read the `.inter` files, one or a split, and the `.item` file of a folder."""
    split = any(next(directory.glob(pattern), None) for pattern in SPLIT)
    files = [
        DelimitedFile(matching_file(directory, pattern), None, typed_header=True)
        for pattern in (SPLIT if split else ("*.inter",))
    ]
    for file in files:
        if "item_id_list" in file.column_names:
            raise UserError(f"{file.path}:1: a history in each row (item_id_list); wanted one interaction a row")
    items = DelimitedFile(matching_file(directory, "*.item"), None, typed_header=True)
    return read_tables(directory, config, workspace, files, items, "user_id", "item_id")
