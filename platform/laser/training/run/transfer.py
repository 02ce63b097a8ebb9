"""Takes starting weights from another run, to transfer them to another dataset or to test them without training."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from laser.config.schema import Experiment
from laser.engine.deepspeed_private import whole_shape
from laser.errors import UserError
from laser.models.laser import Laser
from laser.training.artifacts import Artifacts
from laser.training.extensions.outputs import check_shared_prefix
from laser.training.model import weightless_laser
from laser.training.run.checkpoint import CHECKSUMS, Checkpoint, latest_checkpoint, read_checkpoint


def starting_weights(start_from: str, laser: Laser) -> dict[str, Tensor]:
    """Return the trainable weights of a checkpoint, or of the best one of a run, for a model of the same shape.

    Those within the LLM may be missing: another tuning method made them, or none.

    Args:
        start_from: directory of a checkpoint, or of a run.
        laser: the model that receives the weights: whole, sharded by ZeRO-3, or on the meta device.

    Raises:
        UserError: there is no such checkpoint, or a weight does not fit; names the weight and the remedy.
    """
    weights = starting_checkpoint(start_from).trainable()
    own = laser.trainable_parameters() | laser.statistics()
    shapes = {name: whole_shape(weight) for name, weight in own.items()}
    _check_fit(start_from, {name: weight.shape for name, weight in weights.items()}, shapes)
    return weights


def check_start(config: Experiment, artifacts: Artifacts) -> None:
    """Refuse a `training.start_from` that does not fit, before workers start.

    Raises:
        UserError: there is no such checkpoint, a weight does not fit, or the head cannot be prepared under them.
    """
    if config.training.start_from is not None:
        laser = weightless_laser(config, artifacts.llm_directory, artifacts.recommender_width, torch.device("cpu"))
        weights = starting_weights(config.training.start_from, laser)
        if config.warms_up_head:
            check_shared_prefix(weights)


def starting_checkpoint(start_from: str) -> Checkpoint:
    """Return the checkpoint that `training.start_from` names.

    Raises:
        UserError: there is none.
    """
    directory = Path(start_from).expanduser()
    if (directory / CHECKSUMS).is_file():
        return read_checkpoint(directory)
    latest = latest_checkpoint(directory / "checkpoints")
    if latest is None:
        raise UserError(
            f"training.start_from: {start_from} is neither a checkpoint nor a run with one; name a run's directory, "
            "such as runs/laser, or one under its checkpoints/"
        )
    return latest if latest.state.best is None else read_checkpoint(directory / "checkpoints" / latest.state.best)


def _check_fit(start_from: str, there: Mapping[str, torch.Size], here: Mapping[str, torch.Size]) -> None:
    for name in sorted({*there, *here}):
        if there.get(name) == here.get(name) or (name not in there and name.startswith("llm.")):
            continue  # what a tuning method trains of the LLM may begin as it is
        shapes = [f"is {tuple(place[name])}" if name in place else "is missing" for place in (there, here)]
        raise UserError(
            f"training.start_from: weight {name} {shapes[0]} in {start_from} and {shapes[1]} here; set bituning.*, "
            "mformer.*, head.*, recommender.hidden_size and llm.source as that run has them"
        )
