"""Suite catalogue: loss and ranks over a large catalogue, and the memory they take beyond the item embeddings.

    python jobs/benchmark.py suite=catalogue training.item_dtype=bf16

There is no peer. The bound is a matrix product in float32 at the speed of a square one, because both compute in
float32 for any dtype of the embeddings. The loss multiplies twice (scores, and items weighed by them), ranking once.

Shape suffixes: B users, I items, H width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from laser.benchmarks.measure import matrix_product, peak_mib, take_turns
from laser.benchmarks.suites import BenchmarkResult
from laser.config.jobs import BenchmarkJob
from laser.engine.losses import item_contrastive_loss
from laser.evaluation.ranking import catalogue_ranks
from laser.training.loop import ITEM_DTYPES

FILL_ITEMS = 4_096
"""Embeddings that are drawn; the others are made from these."""


def run(job: BenchmarkJob) -> BenchmarkResult:
    """Time the loss and the ranking in turn, and measure the peak of memory that each adds."""
    settings = job.benchmark
    users, items, width = settings.catalogue_users, settings.catalogue_items, settings.catalogue_width
    item_embeddings_IH = random_catalogue(items, width, ITEM_DTYPES[job.training.item_dtype])
    generator = torch.Generator().manual_seed(1)
    representation_BH = torch.randn(users, width, generator=generator).requires_grad_()
    targets_B = torch.randint(items, (users,), generator=generator)

    def loss() -> None:
        temperature, weights_B = job.training.temperature, torch.ones(users)
        unit_BH = F.normalize(representation_BH, dim=-1)
        item_contrastive_loss(unit_BH, item_embeddings_IH, targets_B, weights_B, temperature).backward()

    def rank() -> None:
        catalogue_ranks(F.normalize(representation_BH.detach(), dim=-1), item_embeddings_IH, targets_B)

    square_product, operations = matrix_product(torch.float32, torch.device("cpu"))
    contestants = {"square product": square_product, "loss, forward and backward": loss, "ranks": rank}
    timings = take_turns(contestants, settings.rounds, settings.warmup_rounds)
    peaks = {"loss, forward and backward": peak_mib(loss), "ranks": peak_mib(rank)}
    square = operations / (2.0 * users * items * width)
    products = {"square product": square, "loss, forward and backward": 2, "ranks": 1}
    gflops = {name: timings[name].per_second(2e-9 * users * items * width * count) for name, count in products.items()}
    figures: dict[str, Any] = {
        "num_users": users,
        "num_items": items,
        "width": width,
        "item_dtype": job.training.item_dtype,
        "threads": torch.get_num_threads(),
        "embeddings_mib": round(item_embeddings_IH.nbytes / 2**20, 1),
        "scores_mib_if_held": round(4 * users * items / 2**20, 1),
        "seconds": {name: timing.as_figures() for name, timing in timings.items()},
        "gflops": {name: round(value, 1) for name, value in gflops.items()},
        "peak_mib_beyond_embeddings": {name: round(value, 1) for name, value in peaks.items()},
    }
    rows = [
        {
            "contestant": name,
            "seconds": timings[name].median,
            "GFLOP/s": gflops[name],
            "of the square product": gflops[name] / gflops["square product"],
            "MiB beyond the embeddings": peaks.get(name, float("nan")),
        }
        for name in contestants
    ]
    return BenchmarkResult(figures, rows)


def random_catalogue(num_items: int, width: int, dtype: torch.dtype) -> Tensor:
    """Make random directions of length 1 (I, H), which are never whole in float32 unless that is the dtype.

    To draw a billion normal deviates takes minutes. So each part is the first one, with its columns rolled by one more.
    """
    first = F.normalize(torch.randn(FILL_ITEMS, width, generator=torch.Generator().manual_seed(0)), dim=-1).to(dtype)
    items_IH = torch.empty(num_items, width, dtype=dtype)
    for shift, part in enumerate(items_IH.split(FILL_ITEMS)):
        part.copy_(first[: len(part)].roll(shift, dims=1))
    return items_IH
