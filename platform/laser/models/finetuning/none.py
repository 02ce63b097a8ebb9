"""Trains no weight of the LLM."""

from laser.config.families.finetuning import NoFinetuning
from laser.llm.loading import Decoder


def apply(llm: Decoder, config: NoFinetuning) -> None:
    """Leave the LLM frozen."""
