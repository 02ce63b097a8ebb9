"""The rank of each user's wanted item, with and without the own history among the candidates, and its Parquet file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from laser.errors import UserError
from laser.evaluation.metrics import ranking_metrics

TEST_RANKS = Path("ranks", "test.parquet")
"""Where the rank of each test user stands, in the directory of a run or of a recommender (`UserRanks`)."""
SCHEMA = pa.schema([("user_id", pa.int32()), ("target", pa.int32()), ("rank", pa.int64()), ("rank_masked", pa.int64())])


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

    def __len__(self) -> int:
        return len(self.users)

    def metrics(self) -> dict[str, float]:
        """Recall@10, NDCG@10 and MRR, each also under its name with `_masked`, for the ranks without the history."""
        masked = {f"{name}_masked": value for name, value in ranking_metrics(self.masked).items()}
        return ranking_metrics(self.ranks) | masked

    def write(self, path: Path) -> None:
        """Write a Parquet file: user_id, target, rank, rank_masked."""
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table([self.users, self.targets, self.ranks, self.masked], schema=SCHEMA), path)


def read_ranks(path: Path) -> UserRanks:
    """Read what `UserRanks.write` wrote.

    Raises:
        UserError: no such file, or one with other columns.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; name the ranks/test.parquet of a run")
    table = pq.read_table(path)
    if table.schema != SCHEMA:
        raise UserError(f"{path}: columns {table.column_names}, wanted {SCHEMA.names}; name the ranks of a run")
    return UserRanks(*(column.to_numpy() for column in table.columns))
