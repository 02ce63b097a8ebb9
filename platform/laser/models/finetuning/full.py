"""Trains every weight of the LLM."""

from laser.config.families.finetuning import FullConfig
from laser.llm.loading import Decoder


def apply(llm: Decoder, config: FullConfig) -> None:
    """Give every weight a gradient."""
    llm.requires_grad_(True)
