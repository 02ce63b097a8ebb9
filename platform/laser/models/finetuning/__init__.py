"""Trains weights of the LLM itself; each method has its own file."""

from importlib import import_module

from laser.config.families.finetuning import FinetuningConfig
from laser.llm.loading import Decoder

KEPT_BUFFERS = ("anchor_OI", "down_RI", "restart_clock_2")
"""Last parts of the names of buffers by which methods keep what steps do not train and checkpoints must hold."""


def finetune(llm: Decoder, config: FinetuningConfig) -> None:
    """Prepare a frozen LLM for training by the method that `finetuning.type` names.

    The module of that name has a function `apply(llm, config)`. It switches on the gradient of weights, or adds new
    weights, drawn from torch's global generator. The LLM is loaded, sharded by ZeRO-3, or on the meta device.
    """
    import_module(f"laser.models.finetuning.{config.type}").apply(llm, config)
