"""Pure torch: the frozen LLM, the M-Former, Bi-Tuning, and Laser made of the three."""
