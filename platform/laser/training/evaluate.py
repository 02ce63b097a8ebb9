"""Rank with a checkpoint in this process, by plain torch: what reproduces a recorded run's metrics."""

from pathlib import Path
from typing import Literal

import torch

from laser.config.schema import Experiment
from laser.engine.plain import PlainEngine
from laser.training.inputs import Inputs
from laser.training.loop import evaluate
from laser.training.model import build_plain
from laser.training.run.checkpoint import read_checkpoint


def evaluate_checkpoint(
    config: Experiment, inputs: Inputs, checkpoint: Path, split: Literal["val", "test"]
) -> dict[str, float]:
    """All metrics of a checkpoint's weights and item embeddings: of ranks, masked and not, and of lists.

    Args:
        config: the experiment that the checkpoint comes from.
        inputs: its shared stages, with the recommender that it was trained on.
        checkpoint: directory of the checkpoint.
        split: val ranks the users that the run validated on, test all.

    Raises:
        UserError: the checkpoint is not whole.
    """
    saved = read_checkpoint(checkpoint)
    device = torch.device("cuda" if config.training.use_gpu else "cpu")
    engine = PlainEngine(build_plain(config, inputs, device), config.training, device)
    engine.load_trainable(saved.trainable())
    histories = inputs.test if split == "test" else inputs.val
    item_embeddings_IH = saved.item_embeddings().to(device)
    ranks = evaluate(engine, histories, item_embeddings_IH, config.training, f"evaluate {split}", lists=True)
    return ranks.metrics()
