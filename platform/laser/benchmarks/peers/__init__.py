"""What ours is measured beside, where that takes a module of its own."""
