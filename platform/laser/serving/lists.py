"""Lists for many users: a batch after another, into one Parquet file that is there whole or not at all.

Batches are tables of `user` and `history`, and answered ones have `items`, `titles` and `scores` too. This process
answers them, or the workers of Ray Data (`laser.serving.ray_lists`) by the same function, with equal results.

Shape suffix: I catalogue items.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from laser.cli.progress import progress
from laser.data.dataset import Dataset
from laser.errors import UserError
from laser.evaluation.lists import spread
from laser.serving.answerer import Answerer
from laser.serving.catalogue import Catalogue
from laser.serving.files import Histories
from laser.serving.package import read_package
from laser.serving.queries import Options, Query
from laser.storage.files import whole_file

SCHEMA = pa.schema(
    [
        ("user", pa.string()),
        ("rank", pa.int32()),
        ("item", pa.string()),
        ("title", pa.string()),
        ("score", pa.float32()),
    ]
)
"""A row for each item of each list. The score is null where the user gets the most popular items."""
TEXTS = pa.large_list(pa.large_string())
"""Type of the columns `history`, `items` and `titles` of batches."""

Answering = Callable[[Sequence[pa.Table]], Iterator[pa.Table]]
"""Takes batches, and yields them answered, in their order."""


@dataclass(frozen=True)
class Work:
    """What a process needs to answer batches. It pickles."""

    package: Path
    cache: Path
    options: Options
    new_items: Path | None = None
    use_gpu: bool = False

    def open(self) -> "Batches":
        return Batches(
            Answerer.open(read_package(self.package), self.cache, self.new_items, self.use_gpu), self.options
        )


@dataclass(frozen=True)
class Batches:
    """Answers batches."""

    answerer: Answerer
    options: Options

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the batch with its lists, and with how many unknown and unread items its histories had."""
        histories = batch.column("history").to_pylist()
        answers = self.answerer.answer([Query.of(history, self.options) for history in histories])
        columns: dict[str, tuple[list[Any], pa.DataType]] = {
            "items": ([answer.items for answer in answers], TEXTS),
            "titles": ([answer.titles for answer in answers], TEXTS),
            "scores": ([answer.scores for answer in answers], pa.large_list(pa.float32())),
            "num_unknown": ([len(answer.unknown) for answer in answers], pa.int64()),
            "num_unread": ([answer.num_unread for answer in answers], pa.int64()),
        }
        for name, (values, kind) in columns.items():
            batch = batch.append_column(name, pa.array(values, kind))
        return batch


def answered_here(work: Work) -> Answering:
    """Answer in this process."""

    def answer(batches: Sequence[pa.Table]) -> Iterator[pa.Table]:
        opened = work.open()
        yield from (opened(batch) for batch in batches)

    return answer


def dataset_histories(
    dataset: Dataset, split: Literal["all", "val", "test"], users: Sequence[str] | None = None
) -> Histories:
    """Return the histories of a dataset's users: all that is known, or what the evaluation of a split reads.

    Args:
        dataset: with its sequences.
        split: all, val or test.
        users: raw ids; None for all users that have a history.

    Raises:
        UserError: one of the users is not in the dataset, or has no such history.
    """
    raw_users, raw_items = dataset.user_raw_ids, dataset.items.column("raw_id").to_pylist()
    numbers: Sequence[int] = range(dataset.num_users)
    starts, ends = dataset.offsets[:-1], dataset.offsets[1:]
    if split != "all":
        examples = dataset.examples(split)
        numbers, starts, ends = examples.users.tolist(), examples.starts, examples.ends
    rows = {raw_users[number]: row for row, number in enumerate(numbers)}
    for user in users or ():
        if user not in rows:
            raise UserError(
                f"users: {user!r} is no user of {dataset.name} with a history ({split}); leave it out, or give its "
                "history in a file by histories="
            )
    chosen = rows if users is None else {user: rows[user] for user in users}
    ids = dataset.item_ids
    return {user: tuple(raw_items[item] for item in ids[starts[row] : ends[row]]) for user, row in chosen.items()}


def batches_of(histories: Histories, batch_users: int) -> list[pa.Table]:
    """Cut histories into batches."""
    users, items = list(histories), list(histories.values())
    return [
        pa.table(
            {
                "user": pa.array(users[start : start + batch_users], pa.large_string()),
                "history": pa.array(items[start : start + batch_users], TEXTS),
            }
        )
        for start in range(0, len(users), batch_users)
    ]


@dataclass
class Tally:
    """What the summary says of the lists."""

    counts_I: NDArray[np.int64]
    """Lists that hold each item."""
    num_lists: int = 0
    by: dict[str, int] = field(
        default_factory=lambda: {"by_popularity": 0, "with_unknown_items": 0, "longer_than_prompt": 0}
    )
    """Histories, by what became of them."""

    def add(self, batch: pa.Table, numbers: dict[str, int]) -> None:
        """Count an answered batch; `numbers` gives internal ids by raw ids."""
        items = batch.column("items").combine_chunks().flatten().to_pylist()
        np.add.at(self.counts_I, [numbers[item] for item in items], 1)
        self.num_lists += len(batch)
        scores = batch.column("scores").to_pylist()
        self.by["by_popularity"] += sum(bool(row) and row[0] is None for row in scores)
        for name, column in (("with_unknown_items", "num_unknown"), ("longer_than_prompt", "num_unread")):
            self.by[name] += int((batch.column(column).to_numpy() > 0).sum())


def write_lists(catalogue: Catalogue, batches: Sequence[pa.Table], answer: Answering, output: Path) -> dict[str, Any]:
    """Answer batches, write the lists, and return what a summary says of them.

    Args:
        catalogue: the items that may be recommended.
        batches: users and their histories.
        answer: answers them.
        output: the Parquet file; an earlier one is replaced once the new one is whole.
    """
    tally = Tally(np.zeros(len(catalogue), np.int64))
    output.parent.mkdir(parents=True, exist_ok=True)
    answered = answer(batches)
    with whole_file(output) as aside:
        with pq.ParquetWriter(aside, SCHEMA) as writer, progress(batches, "recommend", "batch") as steps:
            for _ in steps:
                batch = next(answered)
                tally.add(batch, catalogue.numbers)
                writer.write_table(list_rows(batch))
    figures = spread(tally.counts_I, tally.num_lists, catalogue.popularity)
    return {"users": tally.num_lists, "rows": int(tally.counts_I.sum()), "histories": tally.by, "lists": figures}


def list_rows(batch: pa.Table) -> pa.Table:
    """Return an answered batch with a row for each item of each list (`SCHEMA`)."""
    lists = batch.column("items").combine_chunks()
    lengths = np.diff(lists.offsets.to_numpy())
    ranks = np.concatenate([np.arange(1, length + 1) for length in lengths]) if len(lengths) else np.zeros(0)
    users = batch.column("user").take(pa.array(np.repeat(np.arange(len(batch)), lengths)))
    columns: Iterable[Any] = (
        users,
        pa.array(ranks, pa.int32()),
        lists.flatten(),
        batch.column("titles").combine_chunks().flatten(),
        batch.column("scores").combine_chunks().flatten(),
    )
    return pa.table(dict(zip(SCHEMA.names, columns, strict=True))).cast(SCHEMA)
