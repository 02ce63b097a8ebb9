"""Requests that a CollectiveSASRec answers from cached histories in memory, from ones on disk, and from ids."""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from laser.benchmarks.measure import take_turns
from laser.benchmarks.suites import BenchmarkResult
from laser.config.jobs import BenchmarkJob
from laser.data.batches import pad_right
from laser.families.collective_sasrec import CollectiveSASRec
from laser.models.sequences.cache import CacheFile
from laser.recommenders.pretraining import pretrained_recommender
from laser.sources.prepare import prepare_dataset

BATCHES, K = (1, 64, 512), 10


def cached_requests(job: BenchmarkJob) -> BenchmarkResult:
    """Time the ten best items of test users, in batches of up to all, and count the bytes of their caches."""
    cache_dir = Path(job.cache_dir).expanduser()
    dataset = prepare_dataset(job.data, cache_dir)
    model = pretrained_recommender(job.recommender, dataset, cache_dir).model
    assert isinstance(model, CollectiveSASRec)
    test = dataset.examples("test")
    users = range(min(len(test), max(BATCHES)))
    histories = [dataset.item_ids[test.starts[user] : test.ends[user]][-model.max_history :] for user in users]
    item_ids, mask = (torch.from_numpy(values) for values in pad_right(histories, 0))
    with TemporaryDirectory() as folder, torch.inference_mode():
        caches = [model.prefill(row[kept]) for row, kept in zip(item_ids, mask, strict=True)]
        file = CacheFile(Path(folder) / "caches", caches)
        ways = {
            "memory": lambda size: model.cached_scores(caches[:size]).topk(K),
            "cold file": lambda size: model.cached_scores(file.cold(range(size))).topk(K),
            "ids": lambda size: model.scores_of_ids(item_ids[:size], mask[:size]).topk(K),
        }
        sizes = [size for size in BATCHES if size <= len(users)]
        work = {f"{way}, {size}": partial(answer, size) for size in sizes for way, answer in ways.items()}
        timings = take_turns(work, job.benchmark.rounds, job.benchmark.warmup_rounds)
    figures = {"item_bytes": model.item_bytes, "user_bytes": sum(one.nbytes for one in caches) / len(caches)}
    figures |= model.use_of_pools(item_ids, mask)
    rows = [{"requests": name, "ms": 1000 * timing.median, **timing.as_figures()} for name, timing in timings.items()]
    return BenchmarkResult({**figures, "requests": rows}, rows)
