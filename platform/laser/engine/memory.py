"""How much memory a worker needs under each ZeRO level, and which level is the fastest that fits.

The levels (arXiv 1910.02054) differ in what each of W workers holds. At level 0 it holds everything, at level 2 its
part of the gradients and of the optimizer. At level 3 it holds its part of all weights too, also of the frozen LLM,
and gathers a block when the block is used. Each level costs more communication than the one before.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch
from torch import Tensor

from laser.config.schema import Experiment
from laser.models.laser import Laser

logger = logging.getLogger(__name__)

Level = Literal[0, 2, 3]
LEVELS: tuple[Level, ...] = (0, 2, 3)
"""Fastest first."""
GATHERED_BLOCKS = 3
"""Blocks that level 3 holds whole at once: the one that runs, the one being fetched, the one not yet given back."""
HEADROOM = 0.8
"""Part of the free memory that may be planned with; buffers and fragmentation, which are not counted, take the rest."""


@dataclass(frozen=True)
class Footprint:
    """The sizes in bytes that a worker's memory depends on."""

    llm: int
    """The LLM's frozen weights, and what a finetuning method keeps beside them."""
    largest_block: int
    """The largest group of LLM weights that level 3 gathers at once."""
    trainable: int
    """All trainable weights, float32."""
    activations: int
    """What a training step keeps for its backward pass, and the item embeddings."""

    def needed(self, level: Level, num_workers: int) -> int:
        """Return the bytes that each worker holds.

        Gradients take as much as the trainable weights, and Adam's moments twice as much. Levels 2 and 3 keep one more
        copy of the trainable weights, the optimizer's own.
        """
        shards = num_workers if level == 3 else 1
        whole = self.llm / shards + self.activations
        if level == 0:
            return int(whole + 4 * self.trainable)
        if level == 2:
            return int(whole + self.trainable + 4 * self.trainable / num_workers)
        return int(whole + 5 * self.trainable / num_workers + GATHERED_BLOCKS * self.largest_block)


def choose_level(footprint: Footprint, num_workers: int, free: int) -> Level:
    """Return the fastest level that fits, and log why.

    Args:
        footprint: sizes of the experiment.
        num_workers: W.
        free: bytes that a worker may take; the smallest over the workers, so that all choose alike.
    """
    usable = HEADROOM * free
    needs = {level: footprint.needed(level, num_workers) for level in LEVELS}
    chosen: Level = next((level for level in LEVELS if needs[level] <= usable), 3)
    reasons = ", ".join(f"level {level} needs {_gib(need)}" for level, need in needs.items())
    room = f"{_gib(usable)} of {_gib(free)} free may be planned with"
    if needs[chosen] <= usable:
        logger.info("training.zero_stage auto → %d, the fastest that fits: %s a worker; %s", chosen, reasons, room)
    else:
        logger.warning(
            "training.zero_stage auto → 3, and it may not fit: %s a worker; %s; lower training.micro_batch_size or "
            "prompt.max_history_items, raise training.num_workers, or set training.gradient_checkpointing=true",
            reasons, room,
        )  # fmt: skip
    return chosen


def footprint(laser: Laser, config: Experiment, longest: int, catalogue: int) -> Footprint:
    """Count the bytes of a model, which may be on the meta device.

    Args:
        laser: the model.
        config: its experiment.
        longest: text tokens of the longest training history.
        catalogue: number of items.
    """
    training = config.training
    decoder = laser.llm.config.get_text_config()
    size = next(laser.llm.parameters()).element_size()
    histories = min(training.micro_batch_size, ceil(training.batch_size / training.num_workers))
    tokens = histories * (longest + laser.num_added_tokens)
    width = decoder.hidden_size  # of each token, a block keeps its input
    if not training.gradient_checkpointing:  # and queries, keys, values, attended, middle, probabilities, MLP's halves
        width += 6 * decoder.hidden_size + 2 * decoder.intermediate_size
    return Footprint(
        llm=_bytes(weight for weight in laser.llm.parameters() if not weight.requires_grad)
        + _bytes(laser.statistics().values()),
        largest_block=max(_bytes(module.parameters(recurse=False)) for module in laser.llm.modules()),
        trainable=_bytes(laser.trainable_parameters().values()),
        activations=tokens * decoder.num_hidden_layers * width * size
        + catalogue * laser.vector_width * (2 if training.item_dtype == "bf16" else 4),
    )


def stored_bytes(laser: Laser, num_items: int, item_dtype: Literal["fp32", "bf16"]) -> int:
    """Count a checkpoint's bytes: trained weights, Adam's two moments of each, kept buffers, item embeddings.

    The model may be on the meta device.
    """
    trained = sum(weight.numel() for weight in laser.trainable_parameters().values())
    kept = sum(buffer.numel() for buffer in laser.statistics().values())
    return 4 * (3 * trained + kept) + num_items * laser.vector_width * (2 if item_dtype == "bf16" else 4)


def free_memory(device: torch.device, workers_of_node: int) -> int:
    """Return the bytes that this worker may take: its GPU's free memory, or its part of the node's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return psutil.virtual_memory().available // workers_of_node


def _bytes(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
