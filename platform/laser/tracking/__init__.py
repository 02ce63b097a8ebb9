"""MLflow runs: parameters, metrics, tags, artifacts. The one room that imports mlflow."""
