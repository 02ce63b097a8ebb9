"""What ours is measured beside, where that takes a module or a process of its own."""
