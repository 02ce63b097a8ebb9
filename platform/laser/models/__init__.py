"""Defines the models in pure torch: the frozen LLM, the M-Former, Bi-Tuning, and Laser, which joins the three."""
