"""What goes beyond the paper: the two-sided stage, alignment, the warm start of the head."""
