"""Trains Laser in stages and checkpoints each epoch; Ray Train stays in one file."""
