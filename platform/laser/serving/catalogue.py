"""The items that a model recommends: those of its package, and new ones that it was not trained with.

A new item has a text and no id that the recommender knows. The known items whose texts are most like its own stand for
it, by cosines of whitened text features of the frozen LLM. In a history it is read as the nearest of them. As an item
to recommend it has their mean embedding, at the length that theirs have.

Shape suffixes: I items, J new items, N neighbours, H LLM width, C recommender width.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack
from scipy.special import softmax

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
NUM_NEIGHBOURS, TEMPERATURE = 5, 0.1
"""Known items that stand for a new one, and temperature of the softmax of cosines that weighs them
(docs/laboratory.md)."""


@dataclass(frozen=True)
class Neighbours:
    """The known items that stand for the new ones."""

    items_JN: NDArray[np.int64]
    """The nearest first."""
    weights_JN: NDArray[np.float32]
    """Each row sums to 1."""

    def counted_scores(self, known_BI: csr_array) -> csr_array:
        """Return counted scores of all items, float32 [B, I + J]. A new item has the mean of its neighbours' scores.

        Args:
            known_BI: float32, of the known items.
        """
        num_new, num_neighbours = self.items_JN.shape
        offsets = np.arange(num_new + 1) * num_neighbours
        parts = (self.weights_JN.ravel(), self.items_JN.ravel(), offsets)
        mean_JI = csr_array(parts, shape=(num_new, known_BI.shape[1]))
        return csr_array(hstack([known_BI, known_BI @ mean_JI.T], format="csr"))

    def embeddings(self, known_IC: NDArray[np.float32], blocks: Sequence[int]) -> NDArray[np.float32]:
        """Return the recommender's embeddings of new items, float32 [J, C].

        A mean of vectors that differ is shorter than they are, and a shorter embedding has lower scores. So each block
        of dimensions is scaled to the mean length of the neighbours'.

        Args:
            known_IC: those of the known items.
            blocks: widths of the parts of an embedding (`SequentialRecommender.blocks`).
        """
        near_JNC = known_IC[self.items_JN]
        mean_JC = np.einsum("jn,jnc->jc", self.weights_JN, near_JNC)
        for start, end in pairwise(np.cumsum([0, *blocks])):
            length_JN = np.linalg.norm(near_JNC[:, :, start:end], axis=2)
            wanted_J = (self.weights_JN * length_JN).sum(axis=1)
            found_J = np.linalg.norm(mean_JC[:, start:end], axis=1)
            mean_JC[:, start:end] *= (wanted_J / np.maximum(found_J, 1e-12))[:, None]
        return mean_JC.astype(np.float32)


@dataclass(frozen=True)
class Catalogue:
    """Items by internal id. The new ones come after the known ones."""

    dataset: Dataset
    """Items and their texts; sequences and splits are not there."""
    num_known: int
    """Items that the model was trained with."""
    neighbours: Neighbours
    """Of the new items."""
    popularity: NDArray[np.int64]
    """Training interactions of each item, 0 for new ones: counts_I."""

    @cached_property
    def stand_ins(self) -> NDArray[np.int32]:
        """For each item, the known item that it is in a history that the recommender reads: itself unless it is new."""
        return np.concatenate([np.arange(self.num_known), self.neighbours.items_JN[:, 0]]).astype(np.int32)

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
        return Catalogue(known, known.num_items, nearest(np.zeros((known.num_items, 1), np.float32), 0), popularity)
    dataset = _with_new(known, _new_items(known, new_items), cache)
    num_new = dataset.num_items - known.num_items
    llm = package.config.llm
    features_IH = item_features(llm.source, llm.num_layers, dataset, cache, device)
    white_IW = whitened(features_IH, TEXT_WIDTH)
    counts_I = np.concatenate([popularity, np.zeros(num_new, np.int64)])
    return Catalogue(dataset, known.num_items, nearest(white_IW, num_new), counts_I)


def nearest(white_IW: NDArray[np.float32], num_new: int) -> Neighbours:
    """Return the known items whose texts are most like those of the new ones.

    Args:
        white_IW: whitened text features, those of the new items last.
        num_new: J.
    """
    num_known = len(white_IW) - num_new
    cosine_JI = white_IW[num_known:] @ white_IW[:num_known].T
    items_JN = np.argsort(-cosine_JI, axis=1, kind="stable")[:, :NUM_NEIGHBOURS]
    cosine_JN = np.take_along_axis(cosine_JI, items_JN, axis=1)
    weights_JN = softmax(cosine_JN / TEMPERATURE, axis=1) if num_new else cosine_JN
    return Neighbours(items_JN, weights_JN.astype(np.float32))


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
