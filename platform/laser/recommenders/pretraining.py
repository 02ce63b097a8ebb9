"""Makes the ID-based recommender under the M-Former, once for each setting and dataset.

The result is a directory `recommenders/<type>-<hash>` in the cache. It holds `model.safetensors` and `recommender.json`
(`laser.recommenders.storage`), `result.json` with the metrics and the course of the training, and `ranks/test.parquet`
with the rank of each test user.
"""

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from laser.config.families.recommenders import FamilySection, TextSection
from laser.config.identity import by_content, stage_key
from laser.data.dataset import Dataset
from laser.evaluation.user_ranks import TEST_RANKS
from laser.recommenders.base import SequentialRecommender, TrainedRecommender
from laser.recommenders.ranks import recommender_ranks
from laser.recommenders.registry import build_recommender
from laser.recommenders.storage import load_recommender, save_recommender
from laser.recommenders.text_features import item_features
from laser.recommenders.training import CPU, TrainingResult, train_recommender, validated
from laser.storage.cache import make_once
from laser.storage.files import write_json
from laser.storage.locks import exclusive
from laser.tracking.interface import Report, RunResults

ARTIFACT_VERSION = 2
"""Raised when the training changes its result, so that older results are not reused."""
VERSIONS = {"item_knn": 4, "hybrid": 4, "stack": 4}
"""The same of families whose own training has changed since."""


@dataclass(frozen=True)
class Pretrained:
    """A recommender from the cache, and how it got there."""

    model: SequentialRecommender
    """Frozen, on the CPU."""
    directory: Path
    reused: bool
    """Whether it was in the cache already."""
    result: TrainingResult
    test: dict[str, float] | None
    """Metrics of the test users. None while the test set is unread, and where the dataset has none."""

    def summary(self) -> dict[str, Any]:
        """Return what a job's summary says of it: all but the course of the training."""
        figures = asdict(self.result)
        del figures["history"]
        return {**figures, "test": self.test, "path": str(self.directory), "reused": self.reused}

    def run_results(self) -> RunResults:
        """Return what a run records of it."""
        costs = ("epochs", "trainable_parameters", "statistics", "tokens_per_second", "seconds")
        figures = {name: float(getattr(self.result, name)) for name in costs}
        for split, metrics in (("best", self.result.val), ("test", self.test or {})):
            figures |= {f"{split}/{name}": value for name, value in metrics.items()}
        artifacts = {"recommender": self.directory}
        if self.test:
            artifacts["ranks"] = self.directory / TEST_RANKS.parent
        return RunResults(self.result.history, figures, artifacts)


def pretraining_device(use_gpu: bool) -> torch.device:
    """Return the GPU if one is asked for and this process has one, else the CPU.

    The driver of a cluster may lack the GPU that `training.use_gpu` gives its workers.
    """
    return torch.device("cuda") if use_gpu and torch.cuda.is_available() else CPU


def pretrained_recommender(
    config: FamilySection,
    dataset: Dataset,
    cache_dir: Path,
    report: Report | None = None,
    test: bool = True,
    device: torch.device = CPU,
) -> Pretrained:
    """Return the recommender of these settings for this dataset, from the cache or made now.

    Several processes may ask at once: one trains, and the others wait and load. After an interruption, a training by
    gradient goes on after its last validated epoch.

    Args:
        config: its settings; together with the dataset's fingerprint and the content of an LLM, they name the result.
        dataset: what to train on.
        cache_dir: the cache of all artifacts.
        report: gets the metrics of each validated epoch and its number, also those of a cached result.
        test: read the test set, once. A search sets it to False for the points among which it chooses.
        device: where training by gradient and text features are computed.

    Raises:
        UserError: `recommender.type` is none, or the dataset leaves nothing to train on or to validate with.
    """
    version = VERSIONS.get(config.type, ARTIFACT_VERSION)
    key = stage_key(config.type, version, by_content(config, cache_dir), dataset.fingerprint)
    directory = cache_dir / "recommenders" / key
    unfinished = directory.with_name(f"{key}.unfinished")

    def make(aside: Path) -> None:
        aside.mkdir()
        if config.parts:
            model, result = _put_together(config, dataset, cache_dir, report, device)
        else:
            features_IH = None
            if isinstance(config, TextSection):
                features_IH = item_features(
                    config.text_source, config.text_num_layers, dataset, cache_dir, device=device
                )
            model, result = train_recommender(config, dataset, report, features_IH, device, unfinished)
        save_recommender(model, config, dataset.num_items, aside)
        write_json(aside / "result.json", asdict(result))

    reused = not make_once(directory, make)
    if not reused:
        unfinished.unlink(missing_ok=True)
    recommender = load_recommender(directory)
    content = _result(directory)
    if test and "test" not in content:
        with exclusive(directory.with_name(f"{key}.lock")):
            content = _result(directory)
            if "test" not in content:  # nobody else has read it meanwhile
                content["test"] = _test(recommender, dataset, directory / TEST_RANKS)
                write_json(directory / "result.json", content)
    tested = content.pop("test", None)
    result = TrainingResult(**content)
    if reused and report:
        for metrics in result.history:
            report(metrics, int(metrics["epoch"]))
    return Pretrained(recommender, directory, reused, result, tested)


def _result(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "result.json").read_text())
    return content


def _put_together(
    config: FamilySection, dataset: Dataset, cache_dir: Path, report: Report | None, device: torch.device
) -> tuple[SequentialRecommender, TrainingResult]:
    """Make the parts of a recommender, each by itself, and set them as the model's attributes of the same names."""
    started = time.perf_counter()
    parts = {
        name: pretrained_recommender(part, dataset, cache_dir, test=False, device=device)
        for name, part in config.parts.items()
    }
    with torch.random.fork_rng():  # the weights that are drawn here are replaced by those of the parts
        model = build_recommender(config, dataset.num_items).eval()
    for name, part in parts.items():
        setattr(model, name, part.model)
    speeds = [part.result.tokens_per_second for part in parts.values() if isinstance(part.model, TrainedRecommender)]
    result = validated(model, dataset, report)
    return model, replace(result, tokens_per_second=sum(speeds), seconds=time.perf_counter() - started)


def _test(model: SequentialRecommender, dataset: Dataset, path: Path) -> dict[str, float] | None:
    """Read the test set: write the users' ranks and lists, and return their metrics."""
    examples = dataset.examples("test")
    if not len(examples):
        return None
    ranks = recommender_ranks(model, examples, lists=True)
    ranks.write(path)
    return ranks.metrics()
