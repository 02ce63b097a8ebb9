"""A prepared dataset: the users' interactions in time order, their split, and the texts of the items.

On disk a dataset is a directory of Parquet files and a manifest, written by `laser.sources.prepare`:

    items.parquet      item_id int32 (= row), raw_id, title, one text column per attribute
    sequences.parquet  user_id int32 (= row), raw_id, items list<int32> in time order, timestamps list<int64> or null
    splits.parquet     user_id, train_end, val_end, test_end: positions in the user's sequence
    manifest.json      schema version, counts, fingerprint, source; the times of the cuts, where a split has any
"""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from laser.config.families.splits import ColdSplit, SplitConfig
from laser.config.schema import DataConfig
from laser.data.examples import Examples
from laser.errors import UserError

SCHEMA_VERSION = 2
Split = Literal["train", "val", "test"]
UNITS = (1, 1_000, 1_000_000, 1_000_000_000)
"""Times of a second, where times are dates."""
FIRST_SECOND, END_SECOND = 315_532_800, 4_102_444_800
"""The beginnings of 1980 and 2100, in seconds since 1970."""
SECONDS_OF_A_DAY = 86_400
PER_USER = (
    "each sequence is divided at a time of its own, so training knows what comes after other users' targets "
    "(arXiv 2507.16289); data.split.type=temporal divides all at one time"
)
"""What a summary says of the splits that let the future in."""


class Dataset:
    """An open dataset. Its Parquet columns are memory-mapped, and decoded when they are first used."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.name: str = manifest["name"]
        self.fingerprint: str = manifest["fingerprint"]
        """Hash of items, sequences and splits. Equal data have equal fingerprints."""
        self.num_users: int = manifest["num_users"]
        self.num_items: int = manifest["num_items"]
        self.num_interactions: int = manifest["num_interactions"]
        split = manifest.get("source", {}).get("split")  # leave-one-out is not named
        self.split: SplitConfig = (
            DataConfig().split if split is None else DataConfig.model_validate({"split": split}).split
        )
        self._trains: NDArray[np.bool_] | None = None
        """Whether each user's sequence is trained on; None where all are."""

    def trained_on(self, fraction: float, seed: int) -> "Dataset":
        """Return the same data with the training sequences of a share of the users alone, under another fingerprint.

        They are the users of `Examples.share_of_users`. The others' sequences are still histories to validate and test
        with. So what is fitted to the share knows of no other user's choices.
        """
        if fraction == 1.0:
            return self
        users = self.examples("train").share_of_users(fraction, seed).users
        digest = hashlib.sha256(users.tobytes()).hexdigest()[:8]
        part = Dataset(self.path, {**self.manifest, "fingerprint": f"{self.fingerprint}-{digest}"})
        part._trains = np.isin(np.arange(self.num_users), users)
        return part

    def __repr__(self) -> str:
        return self.described()

    def facts(self) -> dict[str, Any]:
        """Return what summaries say of the data: name, counts, what was left out, by reason, and what to know of it."""
        counts = {name: self.manifest[name] for name in ("num_users", "num_items", "num_interactions")}
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            **counts,
            "rejected": self.manifest.get("rejected", {}),
            "split": self.split.type,
            "notes": self._notes(),
        }

    def _notes(self) -> list[str]:
        """Return what a reader of figures must know of the split."""
        notes = [] if self.split.type == "temporal" else [f"split {self.split.type}: {PER_USER}"]
        if self.candidates is not None:
            floor = min(1.0, 10 / len(self.candidates))
            notes.append(
                f"candidates are {len(self.candidates):,} cold items alone: a random order has Recall@10 {floor:.3f}"
            )
        return notes

    def described(self) -> str:
        """Return name, settings, counts, and what was left out, as one line."""
        defaults = DataConfig().model_dump(mode="json")
        source = {key: value for key, value in self.manifest.get("source", {}).items() if key != "path"}
        changed = [f"{key}={json.dumps(source[key])}" for key in source if source[key] != defaults.get(key)]
        counts = f"{self.num_users:,} users, {self.num_items:,} items, {self.num_interactions:,} interactions"
        out = [f"{reason} {count:,}" for reason, count in self.manifest.get("rejected", {}).items() if count]
        settings = f" ({', '.join(changed)})" if changed else ""
        return f"{self.name}{settings}: {counts}; left out: {', '.join(out) or 'nothing'}"

    @cached_property
    def items(self) -> pa.Table:
        """The table of items: item_id, raw_id, title and the attributes. The row is the internal id."""
        return self._table("items", ["item_id", "raw_id", "title"], every=True)

    @property
    def item_attributes(self) -> tuple[str, ...]:
        """The names of the attribute columns, in prompt order."""
        return tuple(self.items.column_names[3:])

    @cached_property
    def _sequences(self) -> pa.ListArray:
        return self._table("sequences", ["items"]).column("items").combine_chunks()

    @cached_property
    def user_raw_ids(self) -> list[str]:
        """The users' raw ids. The position is the internal id."""
        return self._table("sequences", ["raw_id"]).column("raw_id").to_pylist()

    @cached_property
    def item_ids(self) -> NDArray[np.int32]:
        """All interactions, user after user, in time order."""
        return self._sequences.flatten().to_numpy(zero_copy_only=False)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where sequences start: user u's interactions are `item_ids[offsets[u]:offsets[u + 1]]`."""
        return self._sequences.offsets.to_numpy().astype(np.int64)

    @cached_property
    def _splits(self) -> pa.Table:
        return self._table("splits", ["train_end", "val_end", "test_end"])

    def _table(self, name: str, columns: list[str], every: bool = False) -> pa.Table:
        """Read columns of a file: these, or every column where the file has at least these."""
        path = self.path / f"{name}.parquet"
        try:
            table = pq.read_table(path, columns=None if every else columns, memory_map=True)
            return table if set(columns) <= set(table.column_names) else table.select(columns)
        except (OSError, KeyError, pa.ArrowException) as error:
            raise UserError(f"{path}: not a file of a prepared dataset ({error}); prepare it again") from error

    @cached_property
    def num_train_items(self) -> NDArray[np.int64]:
        """Training interactions of each user."""
        return self._ends("train")

    def _ends(self, split: Split) -> NDArray[np.int64]:
        return self._splits.column(f"{split}_end").to_numpy().astype(np.int64)

    @cached_property
    def train_counts(self) -> NDArray[np.int64]:
        """Training interactions of each item."""
        lengths = np.diff(self.offsets)
        places = np.arange(len(self.item_ids)) - np.repeat(self.offsets[:-1], lengths)
        return np.bincount(self.item_ids[places < np.repeat(self.num_train_items, lengths)], minlength=self.num_items)

    @cached_property
    def candidates(self) -> NDArray[np.int64] | None:
        """The items that are ranked, sorted; None for the whole catalogue. Cold ones have no training interaction."""
        if not isinstance(self.split, ColdSplit) or self.split.candidates == "all":
            return None
        return np.flatnonzero(self.train_counts == 0)

    @property
    def num_candidates(self) -> int:
        """How many items are ranked."""
        return self.num_items if self.candidates is None else len(self.candidates)

    @cached_property
    def times(self) -> NDArray[np.int64] | None:
        """The times of all interactions, as `item_ids`; None without timestamps. Their unit is the source's own."""
        times = self._table("sequences", ["timestamps"]).column("timestamps").combine_chunks()
        return None if times.null_count else times.flatten().to_numpy()

    def train_items(self, user: int) -> NDArray[np.int32]:
        """Return the items of a user's training interactions, oldest first; none of users that `trained_on` drops."""
        if self._trains is not None and not self._trains[user]:
            return self.item_ids[:0]
        start = self.offsets[user]
        return self.item_ids[start : start + self.num_train_items[user]]

    @cached_property
    def days(self) -> NDArray[np.float64] | None:
        """The days since 1970 of all interactions, as `item_ids`; None where times are missing or no such dates.

        Times count seconds, milliseconds, microseconds or nanoseconds, whichever puts the last one between 1980 and
        2100. Of these units at most one does.
        """
        if self.times is None:
            return None
        last = int(self.times.max())
        unit = next((unit for unit in UNITS if FIRST_SECOND <= last / unit < END_SECOND), None)
        return None if unit is None else self.times / (unit * SECONDS_OF_A_DAY)

    def train_days(self, user: int) -> NDArray[np.float64]:
        """Return the days since 1970 of the user's training interactions, as `train_items`.

        Raises:
            UserError: the data have no times that are dates.
        """
        if self.days is None:
            raise UserError(
                f"data.path: {self.name} has no times that are dates (since 1970, in seconds, milliseconds, "
                "microseconds or nanoseconds); take data with such timestamps, or a recommender that needs none"
            )
        start = self.offsets[user]
        return self.days[start : start + len(self.train_items(user))]

    def last_train_times(self, users: NDArray[np.int32]) -> NDArray[np.int64] | None:
        """Return the time of the last training interaction of each user, or None where the data has no timestamps.

        Only the order of times has a meaning. Each user must have a training interaction.
        """
        if self.times is None:
            return None
        assert (self.num_train_items[users] > 0).all()
        return self.times[self.offsets[users] + self.num_train_items[users] - 1]

    def examples(self, split: Split, every_prefix: bool = False, prefixes_per_user: int | None = None) -> Examples:
        """Return the histories and targets of a split.

        - train: the history is all but the last training item, which is the target. `every_prefix` adds every shorter
          history with the item that follows it, of each user the longest `prefixes_per_user` (None takes all).
        - val: the history is the training items; the target is the first validation item.
        - test: the history is the training and validation items; the target is the first test item.
        """
        first = self.offsets[:-1]
        if split == "train":
            users = np.flatnonzero(self._ends("train") >= 2)  # one item to read and one to predict
            if self._trains is not None:
                users = users[self._trains[users]]
            ends = first[users] + self._ends("train")[users] - 1
            if every_prefix:
                counts = ends - first[users]
                if prefixes_per_user is not None:
                    counts = np.minimum(counts, prefixes_per_user)
                steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
                users, ends = np.repeat(users, counts), np.repeat(ends - counts + 1, counts) + steps
        else:
            before = self._ends("train" if split == "val" else "val")
            users = np.flatnonzero((self._ends(split) > before) & (before > 0))
            ends = first[users] + before[users]
        candidates = None if split == "train" else self.candidates
        targets = self.item_ids[ends]
        return Examples(self.item_ids, users.astype(np.int32), first[users], ends, targets, candidates=candidates)


def open_dataset(path: Path) -> Dataset:
    """Open a directory that `prepare_dataset` wrote.

    Raises:
        UserError: it is no prepared dataset, or one of another version of the layout.
    """
    manifest = path / "manifest.json"
    if not manifest.is_file():
        raise UserError(f"{manifest}: no such file; name a prepared dataset, or run jobs/prepare.py")
    try:
        content = json.loads(manifest.read_text())
        if content["schema_version"] != SCHEMA_VERSION:
            layout = content["schema_version"]
            raise UserError(f"{manifest}: layout version {layout}, wanted {SCHEMA_VERSION}; prepare it again")
        return Dataset(path, content)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # ValueError: not UTF-8, or not JSON
        raise UserError(f"{manifest}: not written by jobs/prepare.py ({error!r}); prepare it again") from error
