"""Defines the models in pure torch: the M-Former, Bi-Tuning, and Laser, which joins them with the frozen LLM."""
