"""Speed, measured: ours beside a peer, on the same data, in one process tree. `jobs/benchmark.py` runs the suites."""
