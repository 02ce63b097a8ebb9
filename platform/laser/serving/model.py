"""The packaged model as MLflow runs it, from this very file: `mlflow models serve` and `mlflow.pyfunc.load_model`.

Input is a table with a column `history` of lists of raw item ids. The answer has a row for each: items, titles, scores,
and the unknown items of the history. What becomes of odd histories stands in `laser.serving.queries`.

The LLM is no part of the model. It comes from the cache that the environment variable LASER_CACHE_DIR names
(`.cache/laser` by default), and is fetched there by its source if it is missing.
"""

import os
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class PackagedLaser(PythonModel):
    """Opens a package once, and answers tables of histories."""

    def load_context(self, context: Any) -> None:
        """Verify the package and load the LLM."""
        from laser.serving.answerer import Answerer
        from laser.serving.package import read_package

        package = read_package(Path(context.artifacts["package"]))
        self.answerer = Answerer.open(package, Path(os.environ.get("LASER_CACHE_DIR", ".cache/laser")))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return a table with a row for each history."""
        params = params or {}
        answers = self.answerer.recommend(
            [list(history) for history in model_input["history"]],
            k=int(params.get("k", 10)),
            mask_history=bool(params.get("mask_history", True)),
        )
        names = ("items", "titles", "scores", "unknown")
        return pd.DataFrame({name: [getattr(answer, name) for answer in answers] for name in names})


set_model(PackagedLaser())
