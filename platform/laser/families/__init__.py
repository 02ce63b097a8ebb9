"""The families of recommenders, one file each."""
