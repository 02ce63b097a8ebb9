"""Says what a training run, a sweep or a reproduction will cost, before anything is started."""
