"""Ranks with a checkpoint in this process by plain torch, which reproduces a recorded run's metrics."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from laser.config.identity import same_llm
from laser.config.schema import Experiment
from laser.engine.plain import PlainEngine
from laser.errors import UserError
from laser.evaluation.user_ranks import UserRanks
from laser.training.artifacts import Artifacts
from laser.training.inputs import Inputs
from laser.training.loop import evaluate
from laser.training.model import whole_laser
from laser.training.run.checkpoint import read_checkpoint
from laser.training.train import LLM_TAG


def check_same_content(config: Experiment, artifacts: Artifacts, tags: Mapping[str, str]) -> None:
    """Refuse to evaluate a run on other data, or with another LLM, than it was trained with.

    Args:
        config: the run's experiment.
        artifacts: what its data and its LLM hold now.
        tags: those of the run (`laser.training.train.run_tags`); older runs do not name the content of their LLM.

    Raises:
        UserError: names the setting, and the content then and now.
    """
    then = tags["dataset_fingerprint"]
    if then != artifacts.fingerprint:
        raise UserError(
            f"data.path: {config.data.path} has changed since the run: fingerprint {artifacts.fingerprint}, then {then}"
        )
    then_llm = tags.get(LLM_TAG)
    if not same_llm(then_llm, artifacts.llm_content):
        raise UserError(
            f"llm.source: {config.llm.source} has changed since the run: it holds {artifacts.llm_content}, then "
            f"{then_llm}; put the LLM of the run back"
        )


def evaluate_checkpoint(
    config: Experiment, inputs: Inputs, checkpoint: Path, split: Literal["val", "test"]
) -> UserRanks:
    """Rank with a checkpoint: with and without masked histories, and with lists.

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
    return evaluate(engine, histories, item_embeddings_IH, config.training, f"evaluate {split}", lists=True)
