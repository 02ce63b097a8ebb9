"""The baselines that Laser is measured against. A small search on validation chooses the settings of each.

The search is a grid of few points, `search` of the family's section in `laser.config.families.recommenders`. The best
point has the highest validation NDCG@10 with the history among the candidates, as everywhere. Each point is made once
and cached (`laser.recommenders.pretraining`), so that an interrupted search resumes.
"""

import logging
import random
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from laser.cli.progress import progress
from laser.cli.tables import markdown_table
from laser.config.families.recommenders import BASELINES, FAMILIES
from laser.config.jobs import ReferencesJob
from laser.config.schema import Experiment
from laser.data.dataset import Dataset
from laser.errors import UserError
from laser.evaluation.lists import LIST_METRICS
from laser.evaluation.metrics import RANK_METRICS, SELECTION_METRIC, masked_name
from laser.evaluation.user_ranks import TEST_RANKS
from laser.recommenders.pretraining import Pretrained, pretrained_recommender, pretraining_device
from laser.storage.files import write_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Baseline:
    """A family at its best settings."""

    family: str
    experiment: Experiment
    """The experiment with the chosen recommender."""
    pretrained: Pretrained
    tries: list[dict[str, Any]]
    """All points of the search, best first: settings, `val` metrics, seconds."""

    def figures(self) -> dict[str, float]:
        """Return what a run records of it: `best/<metric>` on validation, `test/<metric>`, and the costs.

        The costs are those of the best point, and `points` and `search_seconds` of the whole search.
        """
        metrics = {"best": self.pretrained.result.val, "test": self.pretrained.test or {}}
        figures = {f"{split}/{name}": value for split, row in metrics.items() for name, value in row.items()}
        costs = ("epochs", "trainable_parameters", "statistics", "seconds")
        figures |= {name: float(getattr(self.pretrained.result, name)) for name in costs}
        search = {"points": float(len(self.tries)), "search_seconds": sum(one["seconds"] for one in self.tries)}
        return figures | search

    def write(self, directory: Path, environment: Mapping[str, Any]) -> None:
        """Write `result.json` (settings, metrics, tries, environment) and the test users' ranks into a directory."""
        directory.mkdir(parents=True, exist_ok=True)
        ranks = self.pretrained.directory / TEST_RANKS
        if ranks.is_file():
            (directory / TEST_RANKS).parent.mkdir(exist_ok=True)
            shutil.copyfile(ranks, directory / TEST_RANKS)
        summary = self.pretrained.summary()
        figures = {name: value for name, value in summary.items() if name not in ("path", "reused")}
        content = {
            "family": self.family,
            "config": self.experiment.recommender.model_dump(mode="json"),
            "data": self.experiment.data.model_dump(mode="json"),
            **figures,
            "tries": self.tries,
            "environment": dict(environment),
        }
        write_json(directory / "result.json", content)


def chosen_families(job: ReferencesJob, dataset: Dataset) -> tuple[str, ...]:
    """Return the families that the job names or, where it names none, all that the data allow.

    Raises:
        UserError: the data do not allow one that is named; names it, and the ones that are left.
    """
    named = BASELINES if job.families is None else job.families
    refused = {family: why for family in named if (why := _unfit(family, dataset)) is not None}
    chosen = tuple(family for family in named if family not in refused)
    for family, why in refused.items():
        if job.families is not None:
            raise UserError(f"families: {family} {why}; leave it out (families=[{','.join(chosen)}])")
        logger.info("left out: %s %s", family, why)
    return chosen


def _unfit(family: str, dataset: Dataset) -> str | None:
    """Say why a family cannot be made of the data; None where it can."""
    section = FAMILIES[family]
    if section.max_items is not None and dataset.num_items > section.max_items:
        return f"takes at most {section.max_items} items and {dataset.name} has {dataset.num_items}"
    if section.needs_days and dataset.days is None:
        return f"needs the dates of interactions, and {dataset.name} has none"
    return None


def best_baseline(job: ReferencesJob, family: str, dataset: Dataset) -> Baseline:
    """Make the points of a family's search that are not cached, and take the one that is best on validation.

    The test set is read only for that one.

    Raises:
        UserError: the dataset leaves nothing to train on or to validate with.
    """
    search = FAMILIES[family].search
    assert search is not None, f"{family} is no baseline"
    cache, device = Path(job.cache_dir).expanduser(), pretraining_device(job.use_gpu)
    tried = []
    with progress(drawn_points(search, job.points), f"search {family}", "point") as points:
        for settings in points:
            experiment = job.experiment(family, settings)
            result = pretrained_recommender(experiment.recommender, dataset, cache, test=False, device=device).result
            tried.append((result.val[SELECTION_METRIC], settings, experiment, result))
            points.note(best=max(point[0] for point in tried))
            logger.info("%s %s: validation NDCG@10 %.4f, %.0f s", family, settings, tried[-1][0], result.seconds)
    tried.sort(key=lambda point: -point[0])  # of equals the first
    _, _, experiment, _ = tried[0]
    pretrained = pretrained_recommender(experiment.recommender, dataset, cache, device=device)
    tries = [
        {"settings": settings, "val": result.val, "epochs": result.epochs, "seconds": result.seconds}
        for _, settings, _, result in tried
    ]
    return Baseline(family, experiment, pretrained, tries)


def table(baselines: list[Baseline]) -> str:
    """Return the test metrics as a Markdown table, the best by the selecting metric first."""
    known = [*RANK_METRICS, *map(masked_name, RANK_METRICS), *LIST_METRICS]
    names = [name for name in known if any(name in (baseline.pretrained.test or {}) for baseline in baselines)]
    rows = []
    for baseline in sorted(baselines, key=lambda one: -one.figures().get(f"test/{SELECTION_METRIC}", 0.0)):
        result, test = baseline.pretrained.result, baseline.pretrained.test or {}
        metrics = [f"{test[name]:.4f}" if name in test else "" for name in names]
        parameters = result.trainable_parameters + result.statistics
        rows.append([baseline.family, *metrics, f"{parameters:,}", f"{result.seconds:.0f}"])
    return markdown_table(["baseline", *names, "parameters", "seconds"], rows)


def drawn_points(search: Mapping[str, list[Any]], number: int | None) -> list[dict[str, Any]]:
    """Return so many points of a grid by chance, the same in each call and for each grid of a size; None is all."""
    points = list(_grid(search))
    return points if number is None else random.Random(0).sample(points, min(number, len(points)))


def _grid(search: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in product(*search.values()):
        yield dict(zip(search, values, strict=True))
