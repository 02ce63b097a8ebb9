"""Keeps a run on disk: its directory, checkpoints, history and outcome, and weights taken from another run."""
