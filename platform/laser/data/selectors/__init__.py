"""Which training users to train on: one file for each type of `selection`."""
