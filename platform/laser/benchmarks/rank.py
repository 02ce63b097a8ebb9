"""Suite rank: full-catalogue ranks, ours beside RecBole's full-sort evaluation, from scores and from embeddings.

    python jobs/benchmark.py suite=rank

RecBole runs unchanged, from its wheel, in this process. It does what its `Trainer.evaluate` does with a batch of scores
(`Collector.eval_batch_collect`) and at the end (`Evaluator.evaluate`). RecBole's trainer also writes -inf over padding
and history; neither side does so here. RecBole's models are not imported: they switch on autograd's anomaly detection.

Shape suffixes: B users, I items, H width.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from laser.benchmarks.measure import Timing, matrix_product, peak_mib, ratio, take_turns
from laser.benchmarks.suites import BenchmarkResult
from laser.config.jobs import BenchmarkConfig, BenchmarkJob
from laser.evaluation.metrics import ranking_metrics
from laser.evaluation.ranking import catalogue_ranks, ranks
from laser.storage.wheels import fetch_wheel

PEER_WHEELS = ("recbole==1.2.1", "colorama==0.4.6", "texttable==1.7.0", "tensorboard==2.20.0", "absl-py==2.5.1")
"""RecBole, and what the import of its evaluator needs and we do not have."""
STRONGEST_SIGNAL = 4.0
"""A target's score is 0 to so many standard deviations above the mean of all items, so that ranks spread."""

Metrics = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Problem:
    """Users and items as unit vectors, and one wanted item per user."""

    representation_BH: Tensor
    items_IH: Tensor
    targets_B: Tensor

    @property
    def num_scores(self) -> int:
        return len(self.representation_BH) * len(self.items_IH)


def run(job: BenchmarkJob) -> BenchmarkResult:
    """Time both ways to the metrics, check that they agree, and compare ours with the hardware's bounds."""
    settings = job.benchmark
    evaluator = import_recbole(Path(job.cache_dir))
    problem = make_problem(settings)
    timings, operations, agreement = measure(settings, evaluator, problem)
    peaks = {
        "embeddings, RecBole": peak_mib(lambda: recbole_metrics(evaluator, problem, settings.rank_peer_batch)),
        "embeddings, ours": peak_mib(lambda: our_metrics(problem)),
        "embeddings, ours, a quarter of the users": peak_mib(lambda: our_metrics(first_users(problem, 4))),
        "embeddings, ours, a quarter of the items": peak_mib(lambda: our_metrics(first_items(problem, 4))),
    }
    return summarise(settings, problem, timings, operations, peaks, agreement)


def measure(
    settings: BenchmarkConfig, evaluator: Any, problem: Problem
) -> tuple[dict[str, Timing], float, dict[str, float]]:
    """Time contestants and bounds; return timings, operations of the square product, and both sides' metrics."""
    scores_BI = problem.representation_BH @ problem.items_IH.T
    square_product, operations = matrix_product(torch.float32, torch.device("cpu"))
    contestants: dict[str, Callable[[], Any]] = {
        "read the scores": lambda: [batch.sum() for batch in scores_BI.split(settings.rank_peer_batch)],
        "scores, RecBole": lambda: recbole_metrics(evaluator, problem, settings.rank_peer_batch, scores_BI),
        "scores, ours": lambda: ranking_metrics(ranks(scores_BI, problem.targets_B).numpy()),
        "square product": square_product,
        "embeddings, RecBole": lambda: recbole_metrics(evaluator, problem, settings.rank_peer_batch),
        "embeddings, ours": lambda: our_metrics(problem),
    }
    agreement = check_agreement(contestants["scores, RecBole"], contestants["scores, ours"])
    return take_turns(contestants, settings.rounds, settings.warmup_rounds), operations, agreement


def make_problem(settings: BenchmarkConfig) -> Problem:
    """Draw random directions, and turn each user's towards the target by a random amount."""
    generator = torch.Generator().manual_seed(0)
    users, items, width = settings.rank_users, settings.rank_items, settings.rank_width
    items_IH = F.normalize(torch.randn(items, width, generator=generator), dim=1)
    targets_B = torch.randint(items, (users,), generator=generator)
    signal_B1 = torch.rand(users, 1, generator=generator) * STRONGEST_SIGNAL * width**-0.5
    representation_BH = F.normalize(torch.randn(users, width, generator=generator), dim=1)
    representation_BH = F.normalize(representation_BH + signal_B1 * items_IH[targets_B], dim=1)
    return Problem(representation_BH, items_IH, targets_B)


def first_users(problem: Problem, divisor: int) -> Problem:
    """Return a part of the users, with all items."""
    users = len(problem.targets_B) // divisor
    return replace(problem, representation_BH=problem.representation_BH[:users], targets_B=problem.targets_B[:users])


def first_items(problem: Problem, divisor: int) -> Problem:
    """Return all users, with a part of the items."""
    items = len(problem.items_IH) // divisor
    return replace(problem, items_IH=problem.items_IH[:items], targets_B=problem.targets_B % items)


def our_metrics(problem: Problem) -> Mapping[str, float]:
    """Compute the metrics from embeddings, as `training/loop.py` does."""
    ranks_B = catalogue_ranks(problem.representation_BH, problem.items_IH, problem.targets_B)
    return ranking_metrics(ranks_B.numpy())


def import_recbole(cache_dir: Path) -> Any:
    """Import RecBole's `evaluator` package from wheels in the cache."""
    sys.path[:0] = [str(fetch_wheel(requirement, cache_dir)) for requirement in PEER_WHEELS]
    vars(np)["float"] = float  # RecBole's NDCG uses this name, which numpy 1.24 dropped; its Config sets it too
    return import_module("recbole.evaluator")


@torch.no_grad()
def recbole_metrics(evaluator: Any, problem: Problem, batch: int, scores_BI: Tensor | None = None) -> dict[str, float]:
    """Evaluate by RecBole, batch by batch: given scores, or the products of embeddings that its models compute."""
    config = {
        "metrics": ["Recall", "NDCG", "MRR"],
        "topk": [10],
        "metric_decimal_place": 12,
        "eval_args": {"mode": "full"},
        "device": torch.device("cpu"),
    }
    collector = evaluator.Collector(config)
    for start in range(0, len(problem.targets_B), batch):
        users = slice(start, start + batch)
        targets_B = problem.targets_B[users]
        batch_BI = problem.representation_BH[users] @ problem.items_IH.T if scores_BI is None else scores_BI[users]
        collector.eval_batch_collect(batch_BI, None, torch.arange(len(targets_B)), targets_B)
    metrics = evaluator.Evaluator(config).evaluate(collector.get_data_struct())
    return {name: float(value) for name, value in metrics.items()}


def check_agreement(theirs: Metrics, ours: Metrics) -> dict[str, float]:
    """Return recall@10 and NDCG@10 of both, which both define alike. (RecBole cuts MRR at 10.)

    Raises:
        ArithmeticError: they differ by more than ties can explain, which RecBole's top-k breaks in any order.
    """
    expected, found = theirs(), ours()
    names = ("recall@10", "ndcg@10")
    if any(abs(expected[name] - found[name]) > 1e-3 for name in names):
        raise ArithmeticError(f"metrics differ on the same scores: RecBole {dict(expected)}, ours {dict(found)}")
    return {f"{name} RecBole": expected[name] for name in names} | {f"{name} ours": found[name] for name in names}


def summarise(
    settings: BenchmarkConfig,
    problem: Problem,
    timings: Mapping[str, Timing],
    operations: float,
    peaks: Mapping[str, float],
    agreement: Mapping[str, float],
) -> BenchmarkResult:
    """Compute ratios and fractions of the bounds: reading the scores once, and the matrix product of embeddings."""
    own_operations = 2.0 * problem.num_scores * settings.rank_width
    peak = timings["square product"].per_second(operations)
    figures = {
        "num_users": settings.rank_users,
        "num_items": settings.rank_items,
        "width": settings.rank_width,
        "threads": torch.get_num_threads(),
        "seconds": {name: timing.as_figures() for name, timing in timings.items()},
        "times_faster_on_scores": ratio(timings["scores, RecBole"], timings["scores, ours"]),
        "times_faster_from_embeddings": ratio(timings["embeddings, RecBole"], timings["embeddings, ours"]),
        "read_gb_per_second": timings["read the scores"].per_second(4e-9 * problem.num_scores),
        "share_of_read_bound_on_scores": ratio(timings["read the scores"], timings["scores, ours"])["median"],
        "square_product_gflops": peak / 1e9,
        "gflops_from_embeddings": timings["embeddings, ours"].per_second(own_operations) / 1e9,
        "share_of_product_bound_from_embeddings": timings["embeddings, ours"].per_second(own_operations) / peak,
        "peak_mib": {name: round(value, 1) for name, value in peaks.items()},
        "agreement": dict(agreement),
    }
    rows = [
        {
            "contestant": name,
            "seconds": timing.median,
            "ns_per_score": 1e9 * timing.median / problem.num_scores if name != "square product" else float("nan"),
            "peak_mib": peaks.get(name, float("nan")),
        }
        for name, timing in timings.items()
    ]
    return BenchmarkResult(figures, rows)
