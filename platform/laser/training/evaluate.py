"""Ranks with a checkpoint in this process by plain torch, which reproduces a recorded run's metrics."""

from pathlib import Path
from typing import Literal

import torch

from laser.config.schema import Experiment
from laser.engine.plain import PlainEngine
from laser.training.inputs import Inputs
from laser.training.loop import evaluate
from laser.training.model import whole_laser
from laser.training.run.checkpoint import read_checkpoint


def evaluate_checkpoint(
    config: Experiment, inputs: Inputs, checkpoint: Path, split: Literal["val", "test"]
) -> dict[str, float]:
    """Return all metrics of a checkpoint: of its ranks, with and without masked histories, and of its lists.

    Args:
        config: the experiment that the checkpoint comes from.
        inputs: the experiment's opened artifacts, with the recommender that the checkpoint was trained on.
        checkpoint: directory of the checkpoint.
        split: val ranks the users that the run validated on; test ranks all users.

    Raises:
        UserError: the checkpoint is not whole.
    """
    saved = read_checkpoint(checkpoint)
    device = torch.device("cuda" if config.training.use_gpu else "cpu")
    engine = PlainEngine(whole_laser(config, inputs.artifacts, device), config.training, device)
    engine.load_trainable(saved.trainable())
    histories = inputs.test if split == "test" else inputs.val
    item_embeddings_IH = saved.item_embeddings().to(device)
    ranks = evaluate(engine, histories, item_embeddings_IH, config.training, f"evaluate {split}", lists=True)
    return ranks.metrics()
