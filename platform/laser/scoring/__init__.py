"""Scores the training users, and draws among them by their scores (DEALRec, arXiv 2401.17197)."""
