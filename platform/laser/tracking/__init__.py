"""MLflow runs and their artifacts. Of the other rooms it knows settings and the names of metrics."""
