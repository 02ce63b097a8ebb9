"""Packs all that a machine without a network needs to run a suite, in parts that can be carried."""
