"""A trained model as a folder that stands by itself: all that an answer needs, but for the frozen LLM.

    <package>/
        package.json                 identity (`Identity`) and the hashes of the other files
        config.yaml                  the experiment
        weights.safetensors          what was trained, and the head's statistics
        item_embeddings.safetensors  of the catalogue, in the order of `catalogue/`
        catalogue/                   items.parquet and manifest.json, as in a prepared dataset; popularity.safetensors
        recommender/                 the frozen recommender, if one is read
        text_means.safetensors       the items' text features, if the head reads them

The LLM is fetched by `llm.source` as everywhere, and is compared with the identity. No file is a pickle.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor

from laser.config.compose import read_yaml, validate
from laser.config.schema import Experiment
from laser.data.dataset import Dataset, open_dataset
from laser.errors import UserError
from laser.models.head import with_counted_weight
from laser.recommenders.text import TextMeans
from laser.storage.content import file_hash
from laser.storage.credentials import masked
from laser.storage.yaml_text import as_yaml
from laser.training.run.checkpoint import read_checkpoint

SCHEMA_VERSION = 1
DESCRIPTION, CONFIG, CATALOGUE, RECOMMENDER = "package.json", "config.yaml", "catalogue", "recommender"
WEIGHTS, EMBEDDINGS = "weights.safetensors", "item_embeddings.safetensors"
TEXT_MEANS = "text_means.safetensors"
POPULARITY = "popularity.safetensors"
COUNTS = "counts_I"
"""Name of the tensor in POPULARITY: training interactions of each item."""


@dataclass(frozen=True)
class Identity:
    """What the model was made of."""

    run_id: str
    """Of its run."""
    dataset: str
    fingerprint: str
    """Hash of the data."""
    llm_source: str
    llm_content: str
    """Names the LLM's weights and tokenizer, wherever they lie (`laser.config.identity.llm_content`)."""
    recommender: str
    """Its family; none if none is read."""
    commit: str
    """Of the code that trained it; empty if that is unknown."""


@dataclass(frozen=True)
class Package:
    """An opened package, whose files have been verified."""

    folder: Path
    config: Experiment
    identity: Identity

    @property
    def catalogue(self) -> Dataset:
        """The items. Sequences and splits of the dataset are not in a package."""
        return open_dataset(self.folder / CATALOGUE)

    @property
    def recommender(self) -> Path | None:
        path = self.folder / RECOMMENDER
        return path if path.is_dir() else None

    @property
    def text_means(self) -> TextMeans | None:
        path = self.folder / TEXT_MEANS
        return TextMeans.read(path, self.config.head.text_decay) if path.is_file() else None

    def weights(self) -> dict[str, Tensor]:
        return with_counted_weight(load_file(self.folder / WEIGHTS))

    def item_embeddings(self) -> Tensor:
        return load_file(self.folder / EMBEDDINGS)["item_embeddings"]

    def popularity(self) -> NDArray[np.int64]:
        """Return how often each item was chosen in training: counts_I."""
        return load_arrays(self.folder / CATALOGUE / POPULARITY)[COUNTS]


def write_package(
    folder: Path,
    config: Experiment,
    dataset: Dataset,
    checkpoint: Path,
    recommender: Path | None,
    text_means: Path | None,
    identity: Identity,
) -> None:
    """Write a package.

    Args:
        folder: to make; the caller renames it into place.
        config: the experiment of the run.
        dataset: the prepared data that it was trained on.
        checkpoint: the selected one.
        recommender: directory of the run's recommender; None if it reads none.
        text_means: the items' text features (`laser.recommenders.text`); None if the head reads none.
        identity: what the model was made of.

    Raises:
        UserError: the checkpoint is not whole.
    """
    saved = read_checkpoint(checkpoint)
    (folder / CATALOGUE).mkdir(parents=True)
    save_file(saved.trainable(), folder / WEIGHTS)
    save_file({"item_embeddings": saved.item_embeddings()}, folder / EMBEDDINGS)
    text = masked(as_yaml(config.model_dump(mode="json", exclude={"tracking"})))
    (folder / CONFIG).write_text(text)
    for name in ("items.parquet", "manifest.json"):
        shutil.copyfile(dataset.path / name, folder / CATALOGUE / name)
    save_arrays({COUNTS: training_counts(dataset)}, folder / CATALOGUE / POPULARITY)
    if recommender is not None:
        (folder / RECOMMENDER).mkdir()
        for name in ("model.safetensors", "recommender.json"):
            shutil.copyfile(recommender / name, folder / RECOMMENDER / name)
    if text_means is not None:
        shutil.copyfile(text_means, folder / TEXT_MEANS)
    description = {"schema_version": SCHEMA_VERSION, "identity": asdict(identity), "files": _hashes(folder)}
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")


def training_counts(dataset: Dataset) -> NDArray[np.int64]:
    """Return the number of training interactions of each item: counts_I."""
    lengths = dataset.num_train_items
    items = [dataset.train_items(user) for user in range(dataset.num_users) if lengths[user]]
    return np.bincount(np.concatenate(items), minlength=dataset.num_items).astype(np.int64)


def read_package(folder: Path) -> Package:
    """Verify the files of a package and open it.

    Raises:
        UserError: it is none, or a file is missing or was altered; names the file.
    """
    path = folder / DESCRIPTION
    try:
        description: Mapping[str, Any] = json.loads(path.read_text())
        version, files = description["schema_version"], dict(description["files"])
        identity = Identity(**description["identity"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not a packaged model ({error}); package its run again") from error
    if version != SCHEMA_VERSION:
        raise UserError(f"{path}: layout {version}, this version reads {SCHEMA_VERSION}; package its run again")
    found = _hashes(folder)
    for name in sorted({*files, *found}):
        if files.get(name) != found.get(name):
            raise UserError(f"{folder / name}: missing, added or altered; package the run again")
    return Package(folder, validate(Experiment, read_yaml(folder / CONFIG)), identity)


def _hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file but the description, by its path in the folder."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: file_hash(path) for name, path in paths.items() if name != DESCRIPTION}
