"""MLflow runs and artifacts; knows the config room alone."""
