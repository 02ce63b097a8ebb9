"""Converts files of LLMs to what `transformers` saves, or refuses by name what would be lost."""
