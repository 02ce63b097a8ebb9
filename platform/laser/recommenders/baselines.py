"""The recommenders that a Laser is measured against, each with settings chosen on validation by a small search.

The search is a grid, written below for all to see: few points, around the defaults and what the literature takes. The
choice is by validation NDCG@10 with the history among the candidates, as everywhere. Each point is made once and cached
(`laser.recommenders.training`), so that a search which was interrupted goes on.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from laser.config.jobs import ReferencesJob
from laser.config.schema import Experiment
from laser.data.dataset import Dataset
from laser.evaluation.metrics import SELECTION_METRIC
from laser.evaluation.user_ranks import TEST_RANKS
from laser.recommenders.training import pretrained_recommender
from laser.storage.files import write_json

logger = logging.getLogger(__name__)

SEARCHES: dict[str, dict[str, list[Any]]] = {
    "popularity": {},
    "item_knn": {"history_decay": [0.5, 0.6, 0.7, 0.8], "degree_exponent": [0.0, 0.1, 0.25]},
    "ease": {"history_decay": [0.7, 0.85], "l2": [100.0, 400.0]},
    "hybrid": {"history_decay": [0.7, 0.85], "text_weight": [3.0, 6.0, 9.0]},
    "sasrec": {"dropout": [0.4, 0.6], "batch_size": [64, 256]},
    "bert4rec": {"dropout": [0.2, 0.4], "mask_probability": [0.2, 0.4], "validate_every": [5], "patience": [3]},
    "text_sasrec": {"dropout": [0.2, 0.4]},
    "stack": {
        "fitted": [{"type": "hybrid", "history_decay": 0.7}],
        "trained": [{"type": "text_sasrec", "dropout": 0.4}],
        "trained_weight": [0.25, 0.5, 1.0],
    },
}
"""Family → setting of its section → values; what is not named keeps its default."""

COLUMNS = ("recall@10", "ndcg@10", "mrr", "recall@10_masked", "ndcg@10_masked", "mrr_masked")


@dataclass(frozen=True)
class Reference:
    """A family at its best settings."""

    family: str
    experiment: Experiment
    """The experiment with the chosen recommender."""
    result: dict[str, Any]
    """What `pretrained_recommender` says of it."""
    tries: list[dict[str, Any]]
    """All points of the search, best first: settings, `val` metrics, seconds."""

    def figures(self) -> dict[str, float]:
        """What is recorded of it: `best/<metric>` on validation, `test/<metric>`, and the costs."""
        metrics = {"best": self.result["val"], "test": self.result["test"] or {}}
        figures = {f"{split}/{name}": value for split, row in metrics.items() for name, value in row.items()}
        costs = ("epochs", "trainable_parameters", "statistics", "seconds")
        return figures | {name: float(self.result[name]) for name in costs}

    def write(self, directory: Path, environment: Mapping[str, Any]) -> None:
        """Write `result.json` (settings, metrics, tries, surroundings) and the test users' ranks into a directory."""
        directory.mkdir(parents=True, exist_ok=True)
        ranks = Path(self.result["path"]) / TEST_RANKS
        if ranks.is_file():
            (directory / TEST_RANKS).parent.mkdir(exist_ok=True)
            shutil.copyfile(ranks, directory / TEST_RANKS)
        figures = {name: value for name, value in self.result.items() if name not in ("path", "reused", "history")}
        content = {
            "family": self.family,
            "config": self.experiment.recommender.model_dump(mode="json"),
            "data": self.experiment.data.model_dump(mode="json"),
            **figures,
            "tries": self.tries,
            "environment": dict(environment),
        }
        write_json(directory / "result.json", content)


def best_reference(job: ReferencesJob, family: str, dataset: Dataset) -> Reference:
    """Make every point of a family's search that is not cached, and take the one that is best on validation.

    The test set is read for that one alone.

    Raises:
        UserError: the dataset leaves nothing to train on or to validate with.
    """
    cache = Path(job.cache_dir).expanduser()
    tried = []
    for settings in _grid(SEARCHES[family]):
        experiment = job.experiment(family, settings)
        _, result = pretrained_recommender(experiment.recommender, dataset, cache, test=False)
        tried.append((result["val"][SELECTION_METRIC], settings, experiment, result))
        logger.info("%s %s: validation NDCG@10 %.4f, %.0f s", family, settings, tried[-1][0], result["seconds"])
    tried.sort(key=lambda point: -point[0])  # of equals the first
    _, _, experiment, _ = tried[0]
    _, result = pretrained_recommender(experiment.recommender, dataset, cache)
    tries = [
        {"settings": settings, "val": result["val"], "epochs": result["epochs"], "seconds": result["seconds"]}
        for _, settings, _, result in tried
    ]
    return Reference(family, experiment, result, tries)


def table(references: list[Reference]) -> str:
    """Test metrics in the order of NDCG@10, as Markdown."""
    header = ["reference", *COLUMNS, "parameters", "seconds"]
    rows = [header, ["---"] * len(header)]
    for reference in sorted(references, key=lambda one: -one.figures().get("test/ndcg@10", 0.0)):
        result = reference.result
        metrics = [f"{(result['test'] or {}).get(name, float('nan')):.4f}" for name in COLUMNS]
        parameters = result["trainable_parameters"] + result["statistics"]
        rows.append([reference.family, *metrics, f"{parameters:,}", f"{result['seconds']:.0f}"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _grid(search: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in product(*search.values()):
        yield dict(zip(search, values, strict=True))
