"""Prepares a dataset from raw files: reads, filters, sorts, numbers, splits and writes interactions.

The cache key is made of the settings and the content of the source files, so that a dataset is prepared once.
Interactions pass through in pieces. Pieces that `data.memory_mib` does not hold go to files beside the target; the
result is the same to the bit. This module joins `sources` and `ingest`, and therefore is in neither of them.
"""

import hashlib
import json
import logging
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from laser.config.families.splits import ColdSplit
from laser.config.fields import without
from laser.config.identity import stage_key
from laser.config.marks import FINGERPRINTED, HOW_IT_RUNS
from laser.config.schema import DataConfig
from laser.data.dataset import SCHEMA_VERSION, Dataset, open_dataset
from laser.data.splits import split
from laser.errors import UserError
from laser.ingest.cuts import find_cuts
from laser.ingest.interactions import Workspace
from laser.ingest.order import SplitAgainstTime, by_user_and_time, k_core
from laser.ingest.texts import clean, num_with_markup
from laser.ingest.write import TableWriter, write_users
from laser.sources.base import RawData
from laser.sources.registry import detect_format, read_source, source_directory, source_files
from laser.storage.cache import make_once
from laser.storage.content import file_hash

logger = logging.getLogger(__name__)

READING = 5
"""Version of what is read from the same files. It rises when another title is chosen, say, and data are read anew."""


def prepare_dataset(config: DataConfig, cache_dir: Path) -> Dataset:
    """Open the prepared dataset of these settings, and prepare it first where it is missing.

    Args:
        config: source, filters and seed. Where `path` is a prepared dataset itself, that one is opened.
        cache_dir: prepared datasets are in its folder `datasets`.

    Raises:
        UserError: input is missing or malformed, or the filters leave nothing.
    """
    place = directory = source_directory(config, cache_dir)
    if not (directory / "manifest.json").is_file():
        content = _content_hash(directory, config)
        name = directory.name or "data"  # the root of a file system has none
        place = cache_dir.absolute() / "datasets" / stage_key(name, _settings(config), content, SCHEMA_VERSION, READING)
        make_once(place, lambda aside: _prepare(directory, config, aside))
    dataset = open_dataset(place)
    if place == directory:
        _check_unaltered(dataset, cache_dir)
    _tell(dataset.described())
    return dataset


@cache
def _tell(described: str) -> None:
    """Say what the data are, once in a process."""
    logger.info("data %s", described)


def _settings(config: DataConfig) -> dict[str, Any]:
    """Return the settings that the dataset depends on, beside the content of the source.

    Leave-one-out, and texts cleaned as the layout asks, are no part of them, because data were prepared, and named,
    before there was a choice.
    """
    settings = without(config, HOW_IT_RUNS, FINGERPRINTED)
    if config.split.neutral:
        del settings["split"]
    if config.clean_texts is None:
        del settings["clean_texts"]
    return settings


def _prepare(directory: Path, config: DataConfig, target: Path) -> None:
    """Make the dataset's folder. Data that memory does not hold are in a temporary folder beside it meanwhile."""
    target.mkdir()
    with tempfile.TemporaryDirectory(prefix=".spilled-", dir=target.parent) as folder:
        _write_dataset(directory, config, Workspace.within(config.memory_mib, Path(folder)), target)


def _write_dataset(directory: Path, config: DataConfig, workspace: Workspace, target: Path) -> None:
    raw = read_source(directory, config, workspace)
    num_users = len(raw.users)
    try:
        blocks, num_repeats = by_user_and_time(raw.interactions, num_users, workspace, raw.drop_repeats)
    except SplitAgainstTime as error:
        raise UserError(
            f"data.path: {config.path}: the split is against time: user {raw.users[error.user].as_py()!r} has an "
            "interaction later than one of the next split; put all into one file, whose last ones are then held out"
        ) from error
    raw_items, text_counts = _with_clean_texts(raw, config)
    untitled = pc.equal(raw_items.column("title"), "").to_numpy()
    core, num_titled = k_core(blocks, num_users, ~untitled, config.k_core)
    num_interactions = int(core.item_counts.sum())
    rejected = raw.rejected | text_counts | ({"repeated_interactions": num_repeats} if raw.drop_repeats else {})
    rejected["items_without_title"] = int(untitled.sum())
    rejected["interactions_without_title"] = blocks.num_rows - num_titled
    rejected["interactions_outside_k_core"] = num_titled - num_interactions
    if not num_interactions:
        raise _nothing_left(config, rejected)
    items, id_of_row = _number_items(raw_items, core.item_counts, config.seed)
    rejected["items_without_interaction"] = raw_items.num_rows - items.num_rows
    with TableWriter(target / "items.parquet", repetitive=True) as writer:
        writer.write(items)
    cuts = find_cuts(config.split, blocks, core)
    num_kept_users, num_kept, digests = write_users(
        target, raw.users, blocks, core, id_of_row, lambda sequences: split(config.split, sequences, cuts)
    )
    rejected["users_without_interaction"] = num_users - num_kept_users
    if num_kept < num_interactions:
        rejected["interactions_outside_split"] = num_interactions - num_kept
    # The candidates change what is measured, and neither items nor sequences.
    candidates = (
        b"cold candidates" if isinstance(config.split, ColdSplit) and config.split.candidates == "cold" else b""
    )
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "name": raw.name or "data",
        "fingerprint": hashlib.sha256(writer.digest.digest() + digests + candidates).hexdigest()[:16],
        "num_users": num_kept_users,
        "num_items": items.num_rows,
        "num_interactions": num_kept,
        "rejected": rejected,
        "source": {"path": config.path, **_settings(config)},
        **({"cuts": cuts.times} if cuts.times else {}),
        "files": {path.name: file_hash(path) for path in sorted(target.glob("*.parquet"))},
    }
    (target / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def _with_clean_texts(raw: RawData, config: DataConfig) -> tuple[pa.Table, dict[str, int]]:
    """Return the items, their texts cleaned where settings or layout ask for it, and counts of what was changed."""
    items, names = raw.items, raw.items.column_names[1:]
    if not (raw.texts_of_pages if config.clean_texts is None else config.clean_texts):
        num_suspect = sum(num_with_markup(items.column(name)) for name in names)
        if num_suspect and config.clean_texts is None:
            logger.warning(
                "data.path: %s: %s texts of items hold entities or markup, such as &amp; or <b>, and are read as they "
                "are; data.clean_texts=true reads them as a web page shows them", config.path, f"{num_suspect:,}"
            )  # fmt: skip
        return items, {"texts_with_markup": num_suspect} if num_suspect else {}
    num_cleaned = num_scripts = 0
    for position, name in enumerate(names, start=1):
        texts, num_changed, num_sources = clean(items.column(name))
        items = items.set_column(position, name, texts)
        num_cleaned += num_changed
        num_scripts += num_sources if name == "title" else 0
    return items, {"texts_cleaned": num_cleaned, "titles_of_page_source": num_scripts}


def _nothing_left(config: DataConfig, rejected: dict[str, int]) -> UserError:
    """Make the error for data of which the filters leave nothing; it says what to do about the largest of them."""
    remedies = {
        "interactions_below_min_rating": "lower data.min_rating",
        "interactions_with_unknown_item": "name the columns of the same ids by data.item_column, data.items_id_column",
        "interactions_without_title": "set data.title_column",
        "interactions_outside_k_core": "lower data.k_core or data.min_rating",
    }
    remedy = remedies[max(remedies, key=lambda reason: rejected.get(reason, 0))]
    return UserError(
        f"data.path: {config.path}: no interaction is left (min_rating {config.min_rating}, "
        f"k_core {config.k_core}, {rejected}); {remedy}"
    )


def _number_items(items: pa.Table, counts: NDArray[np.int64], seed: int) -> tuple[pa.Table, NDArray[np.int32]]:
    """Return the items that are left, in the order of their new ids, and the new id of each old row."""
    present = np.flatnonzero(counts)
    # Many sources number items by first appearance, so that the next item is often the next integer.
    new_ids = np.random.default_rng(seed).permutation(len(present)).astype(np.int32)
    id_of_row = np.full(len(counts), -1, dtype=np.int32)
    id_of_row[present] = new_ids
    items = items.take(pa.array(present[np.argsort(new_ids)]))
    return items.add_column(0, "item_id", pa.array(np.arange(len(present), dtype=np.int32))), id_of_row


def _check_unaltered(dataset: Dataset, cache_dir: Path) -> None:
    """Refuse a prepared dataset whose files are no longer those that its fingerprint stands for."""
    for name, known in dataset.manifest.get("files", {}).items():  # older manifests name none
        if file_hash(dataset.path / name, cache_dir) != known:
            raise UserError(f"{dataset.path / name}: altered since it was prepared; prepare it again")


def _content_hash(directory: Path, config: DataConfig) -> str:
    """Return a hash of the names and bytes of the source's files."""
    digest = hashlib.sha256()
    try:
        for path in source_files(directory, detect_format(directory, config)):
            digest.update(os.fsencode(path.relative_to(directory)))
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; let this account read it, or remove it") from error
    return digest.hexdigest()
