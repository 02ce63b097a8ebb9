"""Scores of users on disk: columns that are costly to make, and the users that were chosen by them, each as Parquet.

A file's name is made of all that went into it. What making it took stands in its metadata.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from laser.storage.cache import make_once

FACTS = b"facts"
Facts = dict[str, float]
Made = tuple[NDArray[np.float64], Facts]
"""A number for each user, and what making them took."""


@dataclass(frozen=True)
class Column:
    """A number for each of some users, in the order of their ids."""

    values: NDArray[np.float64]
    facts: Facts
    """`seconds` that it took to make, and what else is known of it."""


def cached_column(path: Path, name: str, users: NDArray[np.int32], make: Callable[[], Made]) -> Column:
    """Return the column in a file, which `make` gives where it is missing."""

    def write(aside: Path) -> None:
        values, facts = make()
        _write(pa.table({"user": users, name: values}), facts, aside)

    make_once(path, write)
    table = pq.read_table(path)
    return Column(table.column(name).to_numpy(), read_facts(path))


def write_selection(path: Path, columns: dict[str, pa.Array], facts: Facts) -> None:
    """Write the users of a selection: user, influence, effort (null where it weighs nothing), score, group, chosen."""
    make_once(path, lambda aside: _write(pa.table(columns), facts, aside))


def read_selection(path: Path) -> pa.Table:
    """Read what `write_selection` wrote."""
    return pq.read_table(path)


def chosen_in(path: Path | None) -> NDArray[np.int32] | None:
    """Return the ids of the users that were chosen, sorted; None where no scores chose any."""
    if path is None:
        return None
    table = pq.read_table(path, columns=["user", "chosen"])
    return table.column("user").to_numpy()[table.column("chosen").to_numpy()].astype(np.int32)


def read_facts(path: Path) -> Facts:
    """Return what is known of how a file was made."""
    facts: Facts = json.loads(pq.read_metadata(path).metadata[FACTS])
    return facts


def _write(table: pa.Table, facts: Facts, path: Path) -> None:
    pq.write_table(table.replace_schema_metadata({FACTS: json.dumps(facts)}), path)
