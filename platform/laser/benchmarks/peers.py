"""Suite peers: seconds an epoch of SASRec or BERT4Rec, ours beside RecBole's and RecTools'.

    python jobs/benchmark.py config=configs/benchmark/peers.yaml data.path=<folder> \
        benchmark.recbole_python=<python> benchmark.rectools_python=<python>

Each library runs in an environment of its own, in a process of its own, which reads the same training sequences. Width,
layers, heads, dropout, longest history, batch size, learning rate, epochs and seed are those of the section
`recommender`, and the loss is the cross-entropy over the whole catalogue. An epoch passes over each training item once
as a target (SASRec) or over each sequence once (BERT4Rec of ours and of RecTools; RecBole's passes over each prefix).
After the epochs, each library scores all items for the validation users, and our metrics judge the scores.
"""

import json
import logging
import os
import statistics
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from laser import peers
from laser.benchmarks.measure import Timing, ratio
from laser.benchmarks.suites import BenchmarkResult
from laser.config.families.recommenders import Bert4RecConfig, SASRecConfig, TrainedSection
from laser.config.jobs import BenchmarkConfig, BenchmarkJob
from laser.data.dataset import Dataset
from laser.errors import UserError
from laser.evaluation.ranking import ranks, ranks_without_histories
from laser.evaluation.user_ranks import UserRanks
from laser.recommenders.training import train_recommender, training_sequences
from laser.sources.prepare import prepare_dataset

logger = logging.getLogger("benchmark")
RANKED_AT_ONCE = 512
SHARED = ("hidden_size", "num_layers", "num_heads", "dropout", "max_history", "learning_rate", "batch_size", "seed")


def run(job: BenchmarkJob) -> BenchmarkResult:
    """Let ours and each library that has a Python train in turns; every other round has the reverse order."""
    section, settings = job.recommender, job.benchmark
    if not isinstance(section, SASRecConfig | Bert4RecConfig):
        raise UserError(f"recommender.type: suite=peers compares sasrec and bert4rec, not {section.type}; choose one")
    pythons = _pythons(settings)
    dataset = prepare_dataset(job.data, Path(job.cache_dir))
    names, results = ["laser", *pythons], dict[str, list[dict[str, Any]]]()
    for number in range(settings.warmup_rounds + settings.rounds):
        for name in names if number % 2 else reversed(names):
            if name == "laser":
                result = _ours(section, dataset, settings.peer_epochs)
            else:
                result = _theirs(name, pythons[name], section, dataset, settings.peer_epochs)
            logger.info("%s: %s seconds an epoch", name, ", ".join(f"{value:.2f}" for value in result["seconds"]))
            if number >= settings.warmup_rounds:
                results.setdefault(name, []).append(result)
    return _summarise(names, results, len(training_sequences(dataset, section.max_history + 1)))


def _pythons(settings: BenchmarkConfig) -> Mapping[str, str]:
    """Return the Python of each library that is measured, and refuse one that lacks the library."""
    named = {"recbole": settings.recbole_python, "rectools": settings.rectools_python}
    pythons = {name: python for name, python in named.items() if python is not None}
    if not pythons:
        raise UserError(
            "benchmark.recbole_python, benchmark.rectools_python: both null; name the Python of one library at least "
            "(docs/performance.md says how to install them)"
        )
    for name, python in pythons.items():
        try:
            found = subprocess.run([python, "-c", f"import {name}"], capture_output=True, text=True, check=False)
        except OSError as error:
            raise UserError(
                f"benchmark.{name}_python: {python}: {error.strerror}; name a Python that has {name}"
            ) from None
        if found.returncode:
            reason = found.stderr.strip().splitlines()[-1:] or ["no reason given"]
            raise UserError(f"benchmark.{name}_python: {python} cannot import {name} ({reason[0]}); install it there")
    return pythons


def _ours(section: TrainedSection, dataset: Dataset, epochs: int) -> dict[str, Any]:
    """Train ours, and validate once at the end."""
    config = section.model_copy(update={"max_epochs": epochs, "validate_every": epochs})
    _, result = train_recommender(config, dataset)
    items = sum(map(len, training_sequences(dataset, section.max_history + 1)))
    return {
        "version": "ours",
        "threads": torch.get_num_threads(),
        "parameters": result.trainable_parameters,
        "seconds": [items / result.tokens_per_second],
        "val": result.val,
    }


def _theirs(name: str, python: str, section: TrainedSection, dataset: Dataset, epochs: int) -> dict[str, Any]:
    """Train a library's in a process of its own, and judge its scores."""
    users = [user for user in range(dataset.num_users) if len(dataset.train_items(user))]
    examples = dataset.examples("val")
    request = {
        **section.model_dump(mode="json", include=set(SHARED)),
        "family": section.type,
        "mask_probability": getattr(section, "mask_probability", Bert4RecConfig().mask_probability),
        "epochs": epochs,
        "num_items": dataset.num_items,
        "sequences": [dataset.train_items(user).tolist() for user in users],
        "validated": np.searchsorted(users, examples.users).tolist(),
    }
    script = Path(peers.__path__[0]) / f"{name}_training.py"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "request.json").write_text(json.dumps(request))
        done = subprocess.run(
            [python, str(script), str(folder)], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{script.name} ended with status {done.returncode}:\n{done.stderr[-4000:]}")
        result: dict[str, Any] = json.loads((folder / "result.json").read_text())
        scores_BI = np.load(folder / "scores.npy", mmap_mode="r")
        return result | {"val": _judged(scores_BI, dataset)}


def _judged(scores_BI: np.ndarray[Any, np.dtype[np.float32]], dataset: Dataset) -> dict[str, float]:
    """Return our metrics of a library's scores, one row for each validation user."""
    examples = dataset.examples("val")
    ranks_B, masked_B = np.empty((2, len(examples)), dtype=np.int64)
    for start in range(0, len(examples), RANKED_AT_ONCE):
        rows = np.arange(start, min(start + RANKED_AT_ONCE, len(examples)))
        scores, targets = torch.from_numpy(scores_BI[rows]), torch.from_numpy(examples.targets[rows].astype(np.int64))
        found = ranks(scores, targets)
        histories = [examples.history(int(row)) for row in rows]
        ranks_B[rows] = found.numpy()
        masked_B[rows] = ranks_without_histories(found, scores, targets, histories).numpy()
    return UserRanks(examples.users, examples.targets, ranks_B, masked_B).metrics()


def _summarise(names: list[str], results: Mapping[str, list[dict[str, Any]]], num_sequences: int) -> BenchmarkResult:
    timings = {name: Timing(tuple(statistics.mean(result["seconds"]) for result in results[name])) for name in names}
    times = {name: ratio(timings[name], timings["laser"]) for name in names}
    figures = {
        "num_sequences": num_sequences,
        "seconds_per_epoch": {name: timing.as_figures() for name, timing in timings.items()},
        "times_ours": times,
        "val": {name: results[name][-1]["val"] for name in names},
        "versions": {name: results[name][-1]["version"] for name in names},
        "threads": {name: results[name][-1]["threads"] for name in names},
    }
    rows = [
        {
            "library": f"{name} {results[name][-1]['version']}",
            "seconds an epoch": timings[name].median,
            "times ours": times[name]["median"],
            "parameters": results[name][-1]["parameters"],
            "val ndcg@10": results[name][-1]["val"]["ndcg@10"],
        }
        for name in names
    ]
    return BenchmarkResult(figures, rows)
