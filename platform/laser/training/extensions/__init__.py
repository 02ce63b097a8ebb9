"""Extends the paper: the two-sided stage, the alignment, and the warm start of the head."""
