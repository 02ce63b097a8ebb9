"""Blocks of encoders that read a history of items, in pure torch."""
