"""Laser: a frozen LLM tuned for sequential recommendation by a few virtual tokens (arXiv 2409.01605)."""
