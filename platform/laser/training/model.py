"""Builds the experiment's model: whole on one device, sharded over workers, or without weights to count them."""

from pathlib import Path

import torch
import torch.distributed as dist

from laser.config.schema import Experiment
from laser.engine.base import Engine
from laser.engine.memory import Level, choose_level, footprint, free_memory, stored_bytes
from laser.llm.loading import Decoder, choose_dtype, empty_llm, llm_config, load_llm
from laser.models.head import Head
from laser.models.laser import Laser, build_head, build_laser
from laser.training.artifacts import Artifacts
from laser.training.inputs import Inputs


def whole_laser(config: Experiment, artifacts: Artifacts, device: torch.device) -> Laser:
    """Build the whole model on one device."""
    dtype = choose_dtype(config.loaded_llm.dtype, device)
    return around(load_llm(artifacts.llm_directory, dtype, config.loaded_llm, device), config, artifacts)


def around(llm: Decoder, config: Experiment, artifacts: Artifacts) -> Laser:
    """Build the model around a loaded LLM, which is whole or sharded."""
    first_token_H = None if artifacts.first_token is None else torch.tensor(artifacts.first_token)
    laser = build_laser(config, llm, artifacts.recommender_width, artifacts.embedding_std, first_token_H)
    if config.training.gradient_checkpointing:
        laser.enable_gradient_checkpointing()
    return laser


def copied_head(engine: Engine, config: Experiment, artifacts: Artifacts) -> Head:
    """Return a copy of the engine's head, whole and on the CPU (collective)."""
    head = build_head(config.head, engine.laser.llm_width, artifacts.recommender_width)
    assert head is not None
    weights = engine.trainable_state()
    head.load_state_dict({name: weights[f"head.{name}"].cpu() for name in head.state_dict()})
    return head


def weightless_laser(config: Experiment, llm_directory: Path, width: int, device: torch.device) -> Laser:
    """Build the model on the meta device, with the shapes and dtypes of `device`, for a recommender of that width."""
    settings = llm_config(llm_directory, config.llm.num_layers, config.llm.trust_remote_code)
    with torch.device("meta"):
        llm = empty_llm(settings, choose_dtype(config.loaded_llm.dtype, device), config.loaded_llm)
        return build_laser(config, llm, width, embedding_std=1.0)


def automatic_level(config: Experiment, inputs: Inputs, device: torch.device, workers_of_node: int) -> Level:
    """Return the ZeRO level for `training.zero_stage=auto`, the same on every worker.

    The call is collective and needs the process group.
    """
    if config.finetuning.whole_moments:
        return 0
    laser = weightless_laser(config, inputs.artifacts.llm_directory, inputs.artifacts.recommender_width, device)
    longest = 0 if inputs.artifacts.texts else int(inputs.train.lengths.max())  # cached text is not run again
    needed = footprint(laser, config, longest, len(inputs.items))
    free = torch.tensor([free_memory(device, workers_of_node)], device=device)
    dist.all_reduce(free, op=dist.ReduceOp.MIN)
    return choose_level(needed, config.training.num_workers, int(free))


def checkpoint_bytes(config: Experiment, artifacts: Artifacts) -> int:
    """Return the size of a checkpoint of the experiment's model."""
    laser = weightless_laser(config, artifacts.llm_directory, artifacts.recommender_width, torch.device("cpu"))
    return stored_bytes(laser, artifacts.num_items, config.training.item_dtype)
