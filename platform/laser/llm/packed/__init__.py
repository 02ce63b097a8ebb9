"""A frozen decoder over packed histories: no padding, no weight gradients."""
