"""A Ray cluster: joined, started and ended on this machine. Nothing of Laser is in it."""
