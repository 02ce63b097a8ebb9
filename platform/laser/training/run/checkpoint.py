"""Writes and reads checkpoints, which do not depend on the number of workers or on the ZeRO level.

A checkpoint is a directory `checkpoints/<stage>-epoch<number>` of the run:

    trainable.safetensors        every trainable weight in full shape, float32
    optimizer.safetensors        Adam's two moments of each weight in full shape, and the step count
    item_embeddings.safetensors  the item embeddings in training.item_dtype (I, D), normalised if there is no head
    state.json                   position in the training, settings, metrics so far, name of the best checkpoint
    checksums.json               SHA-256 of the files above; written last

It is written aside and renamed into place, so it is there whole or not at all. A file that changed later fails its
checksum, and the checkpoint before it is used.
"""

import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from laser.config.compose import flatten
from laser.config.fields import marked
from laser.config.identity import first_difference, same_llm
from laser.config.marks import FINGERPRINTED, HOW_IT_RUNS, LABEL, MAY_DIFFER_ON_RESUME, NUM_EPOCHS
from laser.config.schema import Experiment
from laser.errors import UserError
from laser.models.head import with_counted_weight
from laser.storage.content import file_hash
from laser.storage.files import read_json_object, to_disk, write_json

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 2
"""Version 1 held item embeddings that were not normalised."""
CHECKSUMS = "checksums.json"
REMEDY = "use an earlier checkpoint"
LLM_CONTENT = "llm content"
"""Key beside the settings of a checkpoint: what names the content of the LLM; older checkpoints lack it."""
FILES = ("trainable.safetensors", "optimizer.safetensors", "item_embeddings.safetensors", "state.json")


@dataclass(frozen=True)
class TrainingState:
    """Holds a run's position after a whole epoch, its settings and its metrics so far."""

    stage: int
    """0, 1, 2; 3 once the recommender has joined. Before the stages, and after a warm start, it and the epoch are 0."""
    stage_epoch: int
    """Number of finished epochs of this stage."""
    epoch: int
    """Number of finished epochs of all stages. The order of an epoch's data is a function of (seed, epoch)."""
    best: str | None
    """Name of the checkpoint with the best validation NDCG@10 so far."""
    best_score: float
    settings: dict[str, Any]
    """The flattened settings that the weights depend on; a resumed run must agree with them."""
    history: list[dict[str, float]] = field(default_factory=list)
    """The metrics of each epoch, from the untrained model (epoch 0) on."""
    seconds: float = 0.0
    """Training time so far, over all sessions."""
    tokens: int = 0
    """Tokens trained on so far, over all sessions."""


@dataclass(frozen=True)
class Checkpoint:
    """Gives access to a whole, verified checkpoint. It reads tensors when they are asked for."""

    path: Path
    state: TrainingState

    @property
    def name(self) -> str:
        return self.path.name

    def trainable(self) -> dict[str, Tensor]:
        return with_counted_weight(self._load("trainable"))

    def optimizer(self) -> dict[str, Tensor]:
        return self._load("optimizer")

    def item_embeddings(self) -> Tensor:
        return self._load("item_embeddings")["item_embeddings"]

    def _load(self, name: str) -> dict[str, Tensor]:
        path = self.path / f"{name}.safetensors"
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: not safetensors ({error}); pickles are never read, train anew") from error


def checkpoint_name(stage: int, stage_epoch: int) -> str:
    """Return the name of a checkpoint. Names sort in the order of training."""
    return f"stage{stage}-epoch{stage_epoch:04d}"


def write_checkpoint(
    directory: Path,
    state: TrainingState,
    trainable: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    item_embeddings_IH: Tensor,
) -> Checkpoint:
    """Write the files aside, hash them, and rename the directory, which replaces a checkpoint of the same name.

    Raises:
        UserError: the checkpoint could not be written; earlier checkpoints stay.
    """
    name = checkpoint_name(state.stage, state.stage_epoch)
    aside = directory / f".{name}.{os.getpid()}.writing"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        save_file(dict(trainable), aside / "trainable.safetensors")
        save_file(dict(optimizer), aside / "optimizer.safetensors")
        save_file({"item_embeddings": item_embeddings_IH.contiguous()}, aside / "item_embeddings.safetensors")
        write_json(aside / "state.json", {"schema_version": SCHEMA_VERSION, **asdict(state)})
        write_json(aside / CHECKSUMS, {path.name: file_hash(path) for path in sorted(aside.iterdir())})
        for path in aside.iterdir():
            to_disk(path)
        place = directory / name
        shutil.rmtree(place, ignore_errors=True)
        aside.rename(place)
        to_disk(directory)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{directory}: checkpoint {name} could not be written ({error}); make room and set resume=true to "
            "resume from the checkpoint before it"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Checkpoint(place, state)


def read_checkpoint(path: Path) -> Checkpoint:
    """Verify every file's hash and open the checkpoint.

    Raises:
        UserError: a file is missing or altered, or the layout has another version; names the file.
    """
    if not (path / CHECKSUMS).is_file():
        raise UserError(f"{path / CHECKSUMS}: no such file, so the checkpoint is not whole; use an earlier one")
    checksums = read_json_object(path / CHECKSUMS, REMEDY)
    for name in FILES:
        expected = checksums.get(name)
        if not (path / name).is_file() or file_hash(path / name) != expected:
            raise UserError(f"{path / name}: missing or altered since it was written; use an earlier checkpoint")
    state = read_json_object(path / "state.json", REMEDY)
    version = state.pop("schema_version", None)
    if version != SCHEMA_VERSION:
        raise UserError(f"{path}: checkpoint layout {version}, this version reads {SCHEMA_VERSION}; train anew")
    try:
        return Checkpoint(path, TrainingState(**state))
    except TypeError as error:
        raise UserError(f"{path / 'state.json'}: {error}; use an earlier checkpoint") from error


def latest_checkpoint(directory: Path) -> Checkpoint | None:
    """Return the last whole checkpoint, or None. Skip broken ones and name each in a warning."""
    for path in sorted(directory.glob("stage*-epoch*"), reverse=True):
        try:
            return read_checkpoint(path)
        except UserError as error:
            logger.warning("%s", error)
    return None


def discard_checkpoints(directory: Path, keep: set[str]) -> None:
    """Remove all checkpoints except the named ones (the last and the best), and leftovers of interrupted writes."""
    for path in directory.iterdir():
        if path.name not in keep and (path.name.startswith("stage") or path.name.endswith(".writing")):
            shutil.rmtree(path)


def dependent_settings(config: Experiment, fingerprint: str, llm_content: str | None = None) -> dict[str, Any]:
    """Return the flattened settings that the trained weights depend on, and what names the content of data and LLM."""
    marks = [HOW_IT_RUNS, LABEL, FINGERPRINTED, MAY_DIFFER_ON_RESUME]
    if config.training.schedule == "constant":  # others make the learning rate depend on the number of steps
        marks.append(NUM_EPOCHS)
    independent = marked(Experiment, *marks)
    settings = {key: value for key, value in flatten(config).items() if key not in independent}
    content = {} if llm_content is None else {LLM_CONTENT: llm_content}
    return {**settings, "data fingerprint": fingerprint, **content}


def check_same_settings(state: TrainingState, settings: Mapping[str, Any]) -> None:
    """Refuse to resume a run under settings that its weights do not come from.

    Raises:
        UserError: names the first setting that differs, both values and the remedy.
    """
    before, now = dict(state.settings), dict(settings)
    then, content = before.pop(LLM_CONTENT, None), now.pop(LLM_CONTENT, None)
    if content is not None and not same_llm(then, content):
        raise UserError(
            f"llm.source: holds {content}, and the run to resume was trained on {then}; put the LLM back, or start a "
            "run of another name"
        )
    key = first_difference(before, now, Experiment)
    if key is not None:
        raise UserError(
            f"{key}: {settings.get(key)!r} differs from {state.settings.get(key)!r} of the run to resume; set it back, "
            "or start a run of another name"
        )


def check_epochs(state: TrainingState, config: Experiment) -> None:
    """Refuse to resume a run with more epochs of a stage that it has left: none of them would be trained.

    Raises:
        UserError: names the setting, both numbers and the remedy.
    """
    stages = [row["stage"] for row in state.history if "stage" in row][int(config.warms_up_head) :]
    training = config.training
    wanted = (training.stage0_epochs, training.stage1_epochs, training.stage2_epochs)
    for stage, epochs in enumerate(wanted[: state.stage]):
        if epochs > stages.count(stage):
            raise UserError(
                f"training.stage{stage}_epochs: {epochs}; the run to resume has ended this stage after "
                f"{stages.count(stage)}; set it back, or name the run in training.start_from of another"
            )
