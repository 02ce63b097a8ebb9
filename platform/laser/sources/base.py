"""What every reader of a raw layout returns, and the checks that readers share.

Each layout has a module in this folder that satisfies `LayoutModule`. A reader checks its input and names the file and
line of a mistake. All readers but RecFormer's read interactions as a stream.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from laser.config.schema import DataConfig
from laser.errors import UserError
from laser.ingest.interactions import Interactions, Workspace


@dataclass(frozen=True)
class RawData:
    """Interactions in file order, and the items they name."""

    name: str
    items: pa.Table
    """raw_id, title ("" where there is none), then one text column per attribute."""
    users: pa.Array
    """Raw user ids, each once."""
    interactions: Interactions
    """`user` and `item` are positions in `users` and `items`. Without `time`, the file's order is the order in time.
    Without `split`, the last two items of each user are held out (`laser.data.splits`)."""
    drop_repeats: bool = False
    """Whether interactions with equal user, item and time count as one."""
    texts_of_pages: bool = False
    """Whether the items' texts are as they stood in web pages, so that they are cleaned without being asked to."""
    rejected: dict[str, int] = field(default_factory=dict)
    """How many interactions or items the reader left out, by reason."""


class LayoutModule(Protocol):
    """The module `laser.sources.<name>` of a layout of that name."""

    FILES: str
    """The files that a folder of this layout holds, as an error message names them."""
    PATTERNS: tuple[str, ...]
    """Names of all files and folders that may be read. A change of another file makes no other dataset."""

    @staticmethod
    def recognises(names: set[str]) -> bool:
        """Whether a folder with files of these names has this layout. The first one that does reads it."""

    @staticmethod
    def read(directory: Path, config: DataConfig, workspace: Workspace) -> RawData:
        """Read a folder of this layout.

        Raises:
            UserError: files are missing or malformed; the message names file and line, the value and the remedy.
        """


MAX_ATTRIBUTES = 1000
"""A prompt shows all attributes of an item, so that a user who gives more of them made a mistake."""
RESERVED = ("item_id", "raw_id", "title")
"""Columns of a prepared dataset's items that are no attributes."""


def only_one(directory: Path, found: list[Path], wanted: str) -> Path:
    """Return the one path that was found.

    Raises:
        UserError: there is none, or more than one.
    """
    if len(found) != 1:
        raise UserError(f"{directory}: holds {len(found)} files {wanted}, wanted one; add it, or remove the others")
    return found[0]


def readable(path: Path) -> Path:
    """Return the path if it is a file that can be read. A pipe is refused, because reading it might wait forever.

    Raises:
        UserError: it is a folder, a pipe, a link to nothing or to itself, or this account may not read it.
    """
    if not path.is_file() or not os.access(path, os.R_OK):
        raise UserError(f"{path}: no readable file; put the data file itself there, and let this account read it")
    return path


def chosen_attributes(config: DataConfig, known: list[str], where: Path) -> list[str]:
    """Return the attribute columns to keep, in prompt order.

    Raises:
        UserError: `data.attributes` names a column that the items lack, there are too many attributes, or one has the
            name of another column of the prepared table.
    """
    for name in config.attributes or ():
        if name not in known:
            has = ", ".join(known) or "none"
            raise UserError(f"data.attributes: {name!r} is no attribute in {where} (it has: {has})")
    chosen = known if config.attributes is None else list(config.attributes)
    if len(chosen) > MAX_ATTRIBUTES:
        raise UserError(
            f"{where}:1: {len(chosen)} attributes, wanted at most {MAX_ATTRIBUTES}; choose some by data.attributes"
        )
    for name in chosen:
        if name in RESERVED:
            raise UserError(
                f"{where}:1: an attribute {name!r}, which is a column of its own in a prepared dataset; rename it, or "
                "choose others by data.attributes"
            )
    return chosen
