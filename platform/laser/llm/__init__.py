"""Finds and runs the frozen LLM; keeps what it has read of texts for virtual tokens that come after them."""
