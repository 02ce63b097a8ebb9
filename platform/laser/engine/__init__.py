"""One optimizer step on a machine: plain torch, DeepSpeed, and the memory that each needs."""
