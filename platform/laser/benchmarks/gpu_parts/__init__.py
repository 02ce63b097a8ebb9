"""The parts of suite gpu: bounds and speeds, and whole trainings."""
