"""What is known of each evaluated user: the rank of the wanted item, the recommended list, and their Parquet file."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from laser.errors import UserError
from laser.evaluation.lists import ListContext, Lists, list_metrics
from laser.evaluation.metrics import masked_name, ranking_metrics

TEST_RANKS = Path("ranks", "test.parquet")
"""Where the rank of each test user stands, in the directory of a run or of a recommender (`UserRanks`)."""
SCHEMA = pa.schema([("user_id", pa.int32()), ("target", pa.int32()), ("rank", pa.int64()), ("rank_masked", pa.int64())])
ITEMS = pa.field("items", pa.list_(pa.int32()))
"""One more column, the recommended list; files that were written before there were lists lack it."""
NUM_ITEMS = b"num_items"
"""Metadata of the file's schema, beside the column `items`: the size of the catalogue."""


@dataclass(frozen=True)
class UserRanks:
    """One row for each evaluated user, in the order of the split's examples."""

    users: NDArray[np.int32]
    """Ids of the users in the prepared dataset."""
    targets: NDArray[np.int32]
    """Ids of the items that came next."""
    ranks: NDArray[np.int64]
    """Rank of the target among all items, from 1."""
    masked: NDArray[np.int64]
    """The same with the items of the user's whole history left out; a target that is among them ranks last."""
    lists_EK: Lists | None = None
    """The items of the best scores, best first and of equals the lowest id first, with the history among the
    candidates; None where no lists were made."""
    num_items: int = 0
    """Size of the catalogue; 0 where no lists were made."""

    def __len__(self) -> int:
        return len(self.users)

    def metrics(self) -> dict[str, float]:
        """All metrics of ranks, the same with `_masked` for the ranks without history, and those of lists if any.

        Of lists there are those that need nothing of the dataset (`laser.evaluation.lists`).
        """
        metrics = ranking_metrics(self.ranks)
        metrics |= {masked_name(name): value for name, value in ranking_metrics(self.masked).items()}
        if self.lists_EK is not None:
            metrics |= list_metrics(self.lists_EK, ListContext(self.num_items, self.targets))
        return metrics

    def write(self, path: Path) -> None:
        """Write a whole Parquet file, or none: user_id, target, rank, rank_masked, and items if there are lists."""
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.absolute().with_name(f".{path.name}.{os.getpid()}.writing")
        table = pa.table([self.users, self.targets, self.ranks, self.masked], schema=SCHEMA)
        if self.lists_EK is not None:
            offsets = np.arange(len(self.lists_EK) + 1, dtype=np.int32) * self.lists_EK.shape[1]
            lists = pa.ListArray.from_arrays(offsets, self.lists_EK.ravel())
            table = table.append_column(ITEMS, lists).replace_schema_metadata({NUM_ITEMS: str(self.num_items)})
        pq.write_table(table, aside)  # absolute, because Arrow takes a relative path with a colon for an address
        os.replace(aside, path)


def read_ranks(path: Path) -> UserRanks:
    """Read what `UserRanks.write` wrote, with or without lists.

    Raises:
        UserError: no such file, or one with other columns.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; name the ranks/test.parquet of a run")
    table = pq.read_table(path.absolute())
    with_lists = table.schema == SCHEMA.append(ITEMS) and NUM_ITEMS in (table.schema.metadata or {})
    if table.schema != SCHEMA and not with_lists:
        raise UserError(f"{path}: columns {table.column_names}, wanted {SCHEMA.names}; name the ranks of a run")
    users, targets, ranks, masked = (table.column(name).to_numpy() for name in SCHEMA.names)
    if not with_lists:
        return UserRanks(users, targets, ranks, masked)
    column = table.column(ITEMS.name).combine_chunks()
    sizes = np.unique(np.diff(column.offsets.to_numpy()))
    if len(sizes) > 1:
        raise UserError(f"{path}: items: lists of {sizes.min()} to {sizes.max()} items, wanted lists of one length")
    lists_EK = column.values.to_numpy().reshape(len(table), *sizes or (0,))
    return UserRanks(users, targets, ranks, masked, lists_EK, int(table.schema.metadata[NUM_ITEMS]))
