"""The items that a model recommends: those of its package, and new ones that it was not trained with.

A new item has a text and no id that the recommender knows. To the recommender it is its stand-in: the known item whose
text is most like its own, by cosines of whitened text features of the frozen LLM.

Shape suffixes: I items, J new items, H LLM width.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from laser.config.identity import stage_key
from laser.config.schema import DataConfig
from laser.data.dataset import Dataset, open_dataset
from laser.errors import UserError
from laser.recommenders.text import whitened
from laser.recommenders.text_features import item_features
from laser.serving.files import open_table
from laser.serving.package import Package
from laser.sources.columns import first_of
from laser.sources.tabular import read_items
from laser.storage.cache import make_once

TEXT_WIDTH = 128
"""Principal components by which texts are compared."""


@dataclass(frozen=True)
class Catalogue:
    """Items by internal id. The new ones come after the known ones."""

    dataset: Dataset
    """Items and their texts; sequences and splits are not there."""
    num_known: int
    """Items that the model was trained with."""
    stand_ins: NDArray[np.int32]
    """For each item, the known item that it is to the recommender: itself unless it is new."""
    popularity: NDArray[np.int64]
    """Training interactions of each item, 0 for new ones: counts_I."""

    @cached_property
    def raw_ids(self) -> list[str]:
        return self.dataset.items.column("raw_id").to_pylist()

    @cached_property
    def titles(self) -> list[str]:
        return self.dataset.items.column("title").to_pylist()

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Internal ids by raw ids."""
        return {raw: number for number, raw in enumerate(self.raw_ids)}

    def __len__(self) -> int:
        return len(self.raw_ids)

    def rows(self, raw_ids: tuple[str, ...] | frozenset[str]) -> tuple[NDArray[np.int32], list[str]]:
        """Return the internal ids of the known ones among some raw ids, in order, and the unknown ones, each once."""
        found = [self.numbers[raw] for raw in raw_ids if raw in self.numbers]
        return np.array(found, np.int32), list(dict.fromkeys(raw for raw in raw_ids if raw not in self.numbers))


def open_catalogue(package: Package, cache: Path, new_items: Path | None, device: torch.device) -> Catalogue:
    """Return the items of a package, with those of a table of new items.

    Args:
        package: the model.
        cache: the cache of all artifacts; it gets the text features of the items if there are new ones.
        new_items: CSV, TSV or Parquet with id, title and attributes. Those that the file lacks are empty.
        device: where the LLM reads the texts.

    Raises:
        UserError: the table is malformed, or repeats an item of the catalogue; says which.
    """
    known, popularity = package.catalogue, package.popularity()
    if new_items is None:
        return Catalogue(known, known.num_items, np.arange(known.num_items, dtype=np.int32), popularity)
    dataset = _with_new(known, _new_items(known, new_items), cache)
    num_new = dataset.num_items - known.num_items
    llm = package.config.llm
    features_IH = item_features(llm.source, llm.num_layers, dataset, cache, device)
    stand_ins = np.concatenate([np.arange(known.num_items), stand_ins_of(features_IH, known.num_items)])
    counts_I = np.concatenate([popularity, np.zeros(num_new, np.int64)])
    return Catalogue(dataset, known.num_items, stand_ins.astype(np.int32), counts_I)


def stand_ins_of(features_IH: NDArray[np.float32], num_known: int) -> NDArray[np.int64]:
    """Return the known item whose text is most like that of each new one: int64 [J].

    Args:
        features_IH: text features, those of the known items first.
        num_known: their number.
    """
    white = whitened(features_IH, TEXT_WIDTH)
    return (white[num_known:] @ white[:num_known].T).argmax(axis=1)


def _new_items(known: Dataset, path: Path) -> pa.Table:
    """Read a table of new items with the columns of the known ones."""
    file = open_table(path, "new_items")
    names = file.column_names
    item_column = first_of(names, "item", "item_id", "id", "raw_id")
    file.require(item_column, "item_column")
    attributes = [name for name in known.item_attributes if name in names]
    table, _ = read_items(file, DataConfig(), item_column, "refuse", attributes)
    repeated = pc.is_in(table.column("raw_id"), known.items.column("raw_id").combine_chunks())
    row = pc.index(repeated, pa.scalar(True)).as_py()
    if row >= 0:
        raw = table.column("raw_id")[row].as_py()
        raise UserError(f"new_items: {file.where(row)}: item {raw!r} is in the catalogue already; leave it out")
    columns = [
        table.column(name) if name in table.column_names else pa.array([""] * len(table), pa.string())
        for name in known.items.column_names[1:]
    ]
    return pa.table(dict(zip(known.items.column_names[1:], columns, strict=True)))


def _with_new(known: Dataset, new: pa.Table, cache: Path) -> Dataset:
    """Return the items of a dataset and the new ones below, as a dataset of items in the cache."""
    digest = hashlib.sha256(json.dumps(new.to_pydict(), sort_keys=True).encode()).hexdigest()
    key = stage_key("catalogue", 1, known.fingerprint, digest)
    place = cache / "catalogues" / key

    def make(aside: Path) -> None:
        aside.mkdir()
        number = pa.array(np.arange(known.num_items, known.num_items + len(new), dtype=np.int32))
        below = new.add_column(0, known.items.schema.field(0), number.cast(known.items.schema.field(0).type))
        table = pa.concat_tables([known.items, below.cast(known.items.schema)])
        pq.write_table(table, aside / "items.parquet")
        manifest = {**known.manifest, "num_items": len(table), "fingerprint": f"{known.fingerprint}+{digest[:16]}"}
        (aside / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")

    make_once(place, make)
    return open_dataset(place)
