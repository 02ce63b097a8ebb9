"""Speed of ours beside a peer, measured on the same data in one process tree. `jobs/benchmark.py` runs the suites."""
