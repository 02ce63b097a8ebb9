"""MLflow runs and their artifacts. Of the other rooms it knows the config alone."""
