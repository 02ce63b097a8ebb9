"""Raw interactions and items, in whatever layout they come, as one table of each.

Four families of layouts have a reader each: RecFormer's JSON folders (`sources_recformer`), RecBole's atomic files and
CSV or Parquet pairs (both in `sources_tables`), and dumps of Amazon reviews (`sources_amazon`). A reader checks its
input and names the file and line of what is wrong. All but RecFormer's read interactions as a stream.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from laser.config.schema import DataConfig
from laser.data.ingest.interactions import Interactions
from laser.errors import UserError


@dataclass(frozen=True)
class RawData:
    """Interactions in file order, and the items they name."""

    name: str
    items: pa.Table
    """raw_id, title ("" where there is none), then one text column per attribute."""
    users: pa.Array
    """Raw user ids, each once."""
    interactions: Interactions
    """`user` and `item` are positions in `users` and `items`. Without `time` the order of the file is the order in
    time; without `split` the split leaves one out."""
    drop_repeats: bool = False
    """Whether interactions with equal user, item and time are one."""
    rejected: dict[str, int] = field(default_factory=dict)
    """What the reader left out, and how many."""


MAX_ATTRIBUTES = 1000
"""More cannot be meant: a prompt shows them all."""
RESERVED = ("item_id", "raw_id", "title")
"""Columns of a prepared dataset's items that are no attributes."""


def only_one(directory: Path, found: list[Path], wanted: str) -> Path:
    """The one file that was found.

    Raises:
        UserError: there is none, or more than one, or it is no readable file.
    """
    if len(found) != 1:
        raise UserError(f"{directory}: holds {len(found)} files {wanted}, wanted one; add it, or remove the others")
    return readable(found[0])


def readable(path: Path) -> Path:
    """The path, if a file can be read there. A pipe is none: nobody might ever write to it.

    Raises:
        UserError: it is a folder, a pipe, a link to nothing or to itself, or nobody lets us read it.
    """
    if not path.is_file() or not os.access(path, os.R_OK):
        raise UserError(f"{path}: no readable file; put the data file itself there, and let this account read it")
    return path


def chosen_attributes(config: DataConfig, known: list[str], where: Path) -> list[str]:
    """The attribute columns to keep, in prompt order.

    Raises:
        UserError: `data.attributes` names one that the items lack, there are too many, or one has a name that the
            prepared table gives to something else.
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
