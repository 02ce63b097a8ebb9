"""Losses, steps, stages, checkpoints; DeepSpeed and Ray Train behind one file each."""
