"""Finds the files of an LLM, and converts them to what `transformers` saves or refuses by name what would be lost."""
