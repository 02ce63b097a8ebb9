"""From raw interactions to a prepared dataset: filter, order, number, split, write.

The result is keyed by the settings and by the content of the source files, so it is made once; it is written aside and
renamed.
"""

import hashlib
import json
import logging
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from laser.config.compose import stage_key
from laser.config.errors import UserError
from laser.config.schema import DataConfig
from laser.data.dataset import SCHEMA_VERSION, Dataset, open_dataset
from laser.data.locking import exclusive
from laser.data.sources import RawData, read_source, source_directory

logger = logging.getLogger(__name__)

NUM_HELD_OUT = 2
"""Items of a user that are held out: validation and test."""


def prepare_dataset(config: DataConfig, cache_dir: Path) -> Dataset:
    """Open the prepared dataset of these settings; make it where it is missing.

    Args:
        config: source, filters and seed.
        cache_dir: holds `datasets/`. A `data.path` that holds a prepared dataset itself is opened as it is.

    Raises:
        UserError: missing or malformed input, or filters that leave nothing.
    """
    directory = source_directory(config, cache_dir)
    if (directory / "manifest.json").is_file():
        return open_dataset(directory)
    settings = config.model_dump(mode="json", exclude={"path"})
    place = cache_dir / "datasets" / stage_key(directory.name, settings, _content_hash(directory), SCHEMA_VERSION)
    with exclusive(place.with_name(f"{place.name}.lock")):
        if not place.is_dir():
            raw = read_source(directory, config)
            prepared = _filter(raw, config)
            with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as folder:
                aside = Path(folder) / "dataset"
                aside.mkdir()
                _write(aside, prepared, config)
                aside.rename(place)
    return open_dataset(place)


@dataclass(frozen=True)
class _Filtered:
    """The interactions that stay, user after user in time order, still numbered as in the source."""

    raw: RawData
    rejected: dict[str, int]


def _filter(raw: RawData, config: DataConfig) -> _Filtered:
    """Drop items without title and what falls out of the k-core, then sort by user and time."""
    rejected = dict(raw.rejected)
    untitled = pc.equal(raw.items.column("title"), "").to_numpy()
    keep = ~untitled[raw.item_rows]
    rejected["items_without_title"] = int(untitled.sum())
    rejected["interactions_without_title"] = int((~keep).sum())
    core = k_core(raw.user_rows, raw.item_rows, keep, config.k_core)
    rejected["interactions_outside_k_core"] = int(keep.sum() - core.sum())
    if not core.any():
        raise UserError(
            f"data.path: {config.path}: no interaction is left (min_rating {config.min_rating}, "
            f"k_core {config.k_core}, {rejected}); lower data.k_core or data.min_rating"
        )
    chosen = np.flatnonzero(core)
    users = raw.user_rows[chosen]
    # lexsort is stable: equal times keep the order of the file. A fixed split goes before time.
    keys: list[NDArray[Any]] = [raw.timestamps[chosen]] if raw.timestamps is not None else []
    keys += [raw.split[chosen]] if raw.split is not None else []
    chosen = chosen[np.lexsort([*keys, users])]
    ordered = replace(
        raw,
        user_rows=raw.user_rows[chosen],
        item_rows=raw.item_rows[chosen],
        timestamps=None if raw.timestamps is None else raw.timestamps[chosen],
        split=None if raw.split is None else raw.split[chosen],
    )
    return _Filtered(ordered, rejected)


def k_core(users: NDArray[np.int64], items: NDArray[np.int64], keep: NDArray[np.bool_], k: int) -> NDArray[np.bool_]:
    """The interactions of the largest subset in which each user and item has at least k of them."""
    while True:
        enough_users = np.bincount(users[keep], minlength=users.max() + 1) >= k
        enough_items = np.bincount(items[keep], minlength=items.max() + 1) >= k
        smaller = keep & enough_users[users] & enough_items[items]
        if smaller.sum() == keep.sum():
            return smaller
        keep = smaller


def _write(directory: Path, filtered: _Filtered, config: DataConfig) -> None:
    raw = filtered.raw
    present = np.unique(raw.item_rows)
    # Files of this kind often number items by first appearance, so that the next integer is the answer.
    new_ids = np.random.default_rng(config.seed).permutation(len(present)).astype(np.int32)
    id_of_row = np.full(raw.items.num_rows, -1, dtype=np.int32)
    id_of_row[present] = new_ids
    items = raw.items.take(pa.array(present[np.argsort(new_ids)]))
    items = items.add_column(0, "item_id", pa.array(np.arange(len(present), dtype=np.int32)))

    user_rows, starts, counts = np.unique(raw.user_rows, return_index=True, return_counts=True)
    offsets = np.append(starts, len(raw.user_rows)).astype(np.int32)
    user_ids = pa.array(np.arange(len(user_rows), dtype=np.int32))
    timestamps = (
        pa.nulls(len(user_rows), pa.list_(pa.int64()))
        if raw.timestamps is None
        else pa.ListArray.from_arrays(offsets, pa.array(raw.timestamps))
    )
    sequences = pa.table(
        {
            "user_id": user_ids,
            "raw_id": raw.users.take(pa.array(user_rows)),
            "items": pa.ListArray.from_arrays(offsets, pa.array(id_of_row[raw.item_rows])),
            "timestamps": timestamps,
        }
    )
    splits = pa.table({"user_id": user_ids, **_split_ends(raw, starts, counts)})
    for name, table in (("items", items), ("sequences", sequences), ("splits", splits)):
        pq.write_table(table, directory / f"{name}.parquet")
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "name": raw.name,
        "fingerprint": _fingerprint(items, sequences, splits),
        "num_users": len(user_rows),
        "num_items": len(present),
        "num_interactions": len(raw.item_rows),
        "rejected": filtered.rejected | {"items_without_interaction": raw.items.num_rows - len(present)},
        "source": config.model_dump(mode="json"),
    }
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def _split_ends(raw: RawData, starts: NDArray[np.int64], counts: NDArray[np.int64]) -> dict[str, pa.Array]:
    """Positions in each user's sequence at which training, validation and test end."""
    if raw.split is None:  # leave one out; who has fewer than three interactions only trains
        held_out = np.where(counts > NUM_HELD_OUT, NUM_HELD_OUT, 0)
        train = counts - held_out
        val = train + held_out // NUM_HELD_OUT
    else:
        train = np.add.reduceat(raw.split == 0, starts)
        val = train + np.add.reduceat(raw.split == 1, starts)
    ends = {"train_end": train, "val_end": val, "test_end": counts}
    return {name: pa.array(values.astype(np.int32)) for name, values in ends.items()}


def _fingerprint(*tables: pa.Table) -> str:
    digest = hashlib.sha256()
    for table in tables:
        with pa.ipc.new_stream(_HashSink(digest), table.schema) as writer:
            writer.write_table(table.combine_chunks())
    return digest.hexdigest()[:16]


class _HashSink:
    """A file that only hashes what is written to it."""

    closed = False

    def __init__(self, digest: "hashlib._Hash") -> None:
        self.digest = digest

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return len(content)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def _content_hash(directory: Path) -> str:
    """Hash of the source's files, names and bytes."""
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.iterdir() if path.is_file()):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
