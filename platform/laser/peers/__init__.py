"""Scripts that train other libraries' recommenders, each in an environment that has that library and not Laser."""
