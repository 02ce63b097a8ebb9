"""The experiment's model: built whole on a device, or without weights to count what it takes."""

import torch
import torch.distributed as dist

from laser.config.schema import Experiment
from laser.engine.memory import Level, choose_level, footprint, free_memory
from laser.models.laser import Laser, build_laser
from laser.models.llm import choose_dtype, empty_llm, llm_config, load_llm
from laser.training.inputs import Inputs


def automatic_stage(config: Experiment, inputs: Inputs, device: torch.device, workers_of_node: int) -> Level:
    """The ZeRO level for `training.zero_stage=auto`, the same on every worker. Needs the process group (collective)."""
    laser = weightless_laser(config, inputs, device)
    needed = footprint(laser, config, int(inputs.train.lengths.max()), len(inputs.items))
    free = torch.tensor([free_memory(device, workers_of_node)], device=device)
    dist.all_reduce(free, op=dist.ReduceOp.MIN)
    return choose_level(needed, config.training.num_workers, int(free))


def weightless_laser(config: Experiment, inputs: Inputs, device: torch.device) -> Laser:
    """The experiment's model as it would be on a device, on the meta device: shapes and dtypes without memory."""
    with torch.device("meta"):
        llm_settings = llm_config(inputs.llm_directory, config.llm.num_layers, config.llm.trust_remote_code)
        llm = empty_llm(llm_settings, choose_dtype(config.llm.dtype, device), config.llm)
        return build_laser(config, llm, inputs.recommender_width, inputs.embedding_std, inputs.first_token_H)


def checkpoint_size(config: Experiment, inputs: Inputs) -> int:
    """Bytes of a checkpoint: the trainable weights, Adam's two moments of them, the item embeddings."""
    laser = weightless_laser(config, inputs, torch.device("cpu"))
    item_bytes = 2 if config.training.item_dtype == "bf16" else 4
    trainable = sum(weight.numel() for weight in laser.trainable_parameters().values())
    return 3 * 4 * trainable + len(inputs.items) * laser.vector_width * item_bytes


def build_plain(config: Experiment, inputs: Inputs, device: torch.device) -> Laser:
    """The model whole on one device."""
    llm = load_llm(inputs.llm_directory, choose_dtype(config.llm.dtype, device), config.llm, device)
    laser = build_laser(config, llm, inputs.recommender_width, inputs.embedding_std, inputs.first_token_H)
    if config.training.gradient_checkpointing:
        laser.enable_gradient_checkpointing()
    return laser
