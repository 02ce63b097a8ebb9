"""Search spaces run by Ray Tune, each trial a Ray Train run."""
