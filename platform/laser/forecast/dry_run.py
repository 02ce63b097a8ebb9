"""What a training run or a sweep would read, hold and take. Nothing is started, fetched or written.

Counts come from what is in the cache: what it lacks is named, and what depends on that stays unknown. Seconds are
operations over a stated part of the speed of a matrix product, which is measured here for a moment.
"""

import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel

from laser.cli.tables import markdown_table
from laser.config.compose import with_overrides
from laser.config.paths import with_absolute_paths
from laser.config.schema import Experiment, TuneExperiment
from laser.conversion.source import resolve_llm
from laser.data.dataset import Dataset
from laser.data.prompts import Prompts
from laser.data.selected import select_examples
from laser.engine.memory import LEVELS, footprint
from laser.forecast.cost import Tokens, duration, run_tokens
from laser.llm.loading import choose_dtype, load_tokenizer
from laser.models.laser import Laser
from laser.recommenders.pretraining import pretrained_recommender
from laser.recommenders.registry import build_recommender
from laser.sources.prepare import prepare_dataset
from laser.storage.cache import NotMadeError, nothing_made
from laser.storage.credentials import masked
from laser.storage.yaml_text import as_yaml
from laser.training.model import weightless_laser

logger = logging.getLogger(__name__)

T = TypeVar("T")

PART_OF_PEAK = 0.4
"""Part of a matrix product's speed that a training reaches: .6 was measured with all blocks of SmolLM2, and less with a
few of them (docs/performance.md). Blocks that are far narrower reach less still."""
START_SECONDS = 20.0
"""What the processes of a run take to start, on two cores."""
COUNTED_TRIALS = 32
"""Of a larger search, so many trials are counted; the others cost as much on average."""
UNKNOWN_ITEMS = 10_000
"""Stands for the size of a catalogue that is not prepared, where the width of a recommender does not depend on it."""


@dataclass(frozen=True)
class Forecast:
    """What one training run would be. None stands for what depends on something that is missing."""

    missing: tuple[str, ...]
    """What the cache lacks, and the run makes first."""
    parameters: dict[str, int] | None = None
    """Numbers of weights: `trainable` and `frozen`."""
    memory_mib: dict[str, int] | None = None
    """ZeRO level → MiB that each worker holds; without workers, level 0 alone."""
    tokens: Tokens | None = None
    operations: float | None = None
    """Multiplications and additions of the LLM and the M-Former."""

    def seconds(self, speed: float | None) -> float | None:
        """Return the seconds at so many operations a second."""
        return None if self.operations is None or speed is None else self.operations / speed


@dataclass(frozen=True)
class _Texts:
    """What trials with the same data, prompts and LLM have in common."""

    missing: tuple[str, ...]
    dataset: Dataset | None
    llm: Path | None
    prompts: Prompts | None


class Forecaster:
    """Forecasts experiments that may share data and LLM."""

    def __init__(self) -> None:
        self._texts: dict[str, _Texts] = {}

    def forecast(self, config: Experiment) -> Forecast:
        """Count what an experiment would be.

        Raises:
            UserError: data, LLM or a setting is wrong.
        """
        cache = Path(config.cache_dir).expanduser().absolute()
        texts = self._shared(config, cache)
        dataset, missing = texts.dataset, list(texts.missing)
        width = 0
        if config.uses_recommender:
            with torch.device("meta"):
                items = dataset.num_items if dataset is not None else UNKNOWN_ITEMS
                width = build_recommender(config.recommender, items).hidden_size
        if dataset is not None and config.uses_recommender:
            with nothing_made():
                name = f"the recommender {config.recommender.type} (jobs/pretrain.py)"
                _found(lambda: pretrained_recommender(config.recommender, dataset, cache, test=False), name, missing)
        found = Forecast(tuple(missing))
        if texts.llm is None:
            return found
        laser = weightless_laser(config, texts.llm, width, _device(config))
        trainable = sum(weight.numel() for weight in laser.trainable_parameters().values())
        whole = sum(weight.numel() for weight in laser.parameters())
        found = replace(found, parameters={"trainable": trainable, "frozen": whole - trainable})
        if dataset is None or texts.prompts is None:
            return found
        tokens = run_tokens(config, dataset, texts.prompts)
        return replace(
            found,
            memory_mib=_memory(laser, config, dataset, texts.prompts),
            tokens=tokens,
            operations=_operations(laser, config, tokens),
        )

    def _shared(self, config: Experiment, cache: Path) -> _Texts:
        key = json.dumps([part.model_dump(mode="json") for part in (config.data, config.prompt, config.llm)])
        if key not in self._texts:
            missing: list[str] = []
            with nothing_made():
                dataset = _found(lambda: prepare_dataset(config.data, cache), "the data (jobs/prepare.py)", missing)
                llm = _found(lambda: resolve_llm(config.llm.source, cache), f"the LLM {config.llm.source}", missing)
            prompts = None
            if dataset is not None and llm is not None:
                with tempfile.TemporaryDirectory() as folder:  # the items' words are few, and are counted at once
                    prompts = Prompts.build(dataset, config.prompt, load_tokenizer(llm), Path(folder))
            self._texts[key] = _Texts(tuple(missing), dataset, llm, prompts)
        return self._texts[key]


def describe_training(config: Experiment) -> dict[str, Any]:
    """Say what `jobs/train.py` would do, on standard error and as its summary.

    Raises:
        UserError: data, LLM or a setting is wrong.
    """
    found = Forecaster().forecast(with_absolute_paths(config))
    speed, whence = _speed(config)
    seconds = found.seconds(speed)
    if seconds is not None and config.training.num_workers:
        seconds += START_SECONDS
    _log(config, [(config.name, found, seconds)], whence)
    return {
        "dry_run": True,
        "config": _plain(config),
        "parameters": found.parameters,
        "memory_mib": found.memory_mib,
        "tokens": None if found.tokens is None else {"train": found.tokens.train, "read": found.tokens.read},
        "operations": found.operations,
        "seconds": None if seconds is None else round(seconds),
        "seconds_by": whence,
        "missing": list(found.missing),
    }


def describe_search(config: TuneExperiment) -> dict[str, Any]:
    """Say what `jobs/tune.py` would do, on standard error and as its summary.

    Raises:
        UserError: data, LLM, the space or a trial is wrong.
    """
    from laser.tuning.plan import sampled_trials
    from laser.tuning.search import checked_search
    from laser.tuning.sweep import trial_name

    plan = checked_search(config)
    trials = plan.trials
    if trials is None:  # what a sampler would draw is not known; random trials stand for it
        trials = sampled_trials(plan.space, config.search.num_samples, config.search.seed)
    counted = trials[:: -(-len(trials) // COUNTED_TRIALS)]
    (speed, whence), forecaster = _speed(config), Forecaster()
    rows = []
    for overrides in counted:
        found = forecaster.forecast(with_overrides(plan.base, overrides))
        seconds = found.seconds(speed)
        rows.append((trial_name(overrides), found, None if seconds is None else seconds + START_SECONDS))
    _log(config, rows, whence)
    known = [seconds for _, _, seconds in rows if seconds is not None]
    total = sum(known) / len(known) * len(trials) / _at_once(config) if known else None
    early = "; asha stops some trials before" if config.search.scheduler == "asha" else ""
    logger.info(
        "%d trials, %d at a time on this machine: %s%s", len(trials), _at_once(config), _about(total), early
    )  # fmt: skip
    return {
        "dry_run": True,
        "config": _plain(config),
        "num_trials": len(trials),
        "trials": [
            {
                "name": name,
                "parameters": found.parameters,
                "memory_mib": found.memory_mib,
                "operations": found.operations,
                "seconds": None if seconds is None else round(seconds),
            }
            for name, found, seconds in rows
        ],
        "seconds": None if total is None else round(total),
        "seconds_by": whence,
        "missing": sorted({name for _, found, _ in rows for name in found.missing}),
    }


def _found(find: Callable[[], T], name: str, missing: list[str]) -> T | None:
    try:
        return find()
    except NotMadeError:
        missing.append(name)
        return None


def _memory(laser: Laser, config: Experiment, dataset: Dataset, prompts: Prompts) -> dict[str, int]:
    workers = max(1, config.training.num_workers)
    config = with_overrides(config, {"training.num_workers": workers})
    late = config.bituning.prefix_position == "after"
    longest = 0 if late else int(prompts.lengths(select_examples(dataset, config)["train"]).max())
    sizes = footprint(laser, config, longest, dataset.num_items)
    levels = LEVELS if workers > 1 else LEVELS[:1]
    return {f"zero_stage={level}": round(sizes.needed(level, workers) / 2**20) for level in levels}


def _operations(laser: Laser, config: Experiment, tokens: Tokens) -> float:
    """Count operations: 4 a weight and trained token, 2 a weight and read one, and 6 or 2 where weights are trained."""
    weights = laser.llm_block_weights
    trained = sum(weight.numel() for name, weight in laser.trainable_parameters().items() if name.startswith("llm."))
    backward = 4 * weights + 2 * trained + (2 * weights if config.training.gradient_checkpointing else 0)
    operations = float(backward * tokens.train + 2 * weights * tokens.read)
    for prefix, passes in ((laser.mformer, config.mformer.top_k), (laser.projection, 1)):
        if prefix is not None:
            tokens_alone = {"query_tokens", "filler"}
            own = sum(weight.numel() for name, weight in prefix.named_parameters() if name not in tokens_alone)
            times = 6 * tokens.train_histories + 2 * tokens.read_histories
            operations += own * passes * config.mformer.num_virtual_tokens * times
    return operations


def _speed(config: Experiment) -> tuple[float | None, str]:
    """Measure a matrix product where the LLM would run; return operations a second, and what they are."""
    training, device = config.training, _device(config)
    if device.type == "cuda" and not torch.cuda.is_available():
        return None, "unknown: this process has no GPU to measure"
    dtype, before = choose_dtype(config.llm.dtype, device), torch.get_num_threads()
    threads = _threads(config)
    torch.set_num_threads(threads)
    size = 4096 if device.type == "cuda" else 768
    left = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(6):
        started = time.perf_counter()
        (left @ left)[0, 0].item()  # which waits for a GPU
        best = min(best, time.perf_counter() - started)
    torch.set_num_threads(before)
    gpus = max(1, training.num_workers) if device.type == "cuda" else 1
    peak = gpus * 2 * size**3 / best
    where = f"{gpus} such GPUs" if device.type == "cuda" else f"{threads} threads here"
    name = str(dtype).removeprefix("torch.")
    return PART_OF_PEAK * peak, (
        f"{PART_OF_PEAK:.0%} of {peak / 1e9:,.0f} GFLOP/s, a product in {name} on {where} just now; "
        "what is missing comes on top"
    )


def _threads(config: Experiment) -> int:
    """Return the cores of this machine that one training takes."""
    training, here = config.training, torch.get_num_threads()
    return min(here, max(1, int(training.num_workers * training.cpus_per_worker))) if training.num_workers else here


def _at_once(config: TuneExperiment) -> int:
    """Return the trials of the search that have room on this machine at once, at least one."""
    training = config.training
    room = torch.get_num_threads() // _threads(config)
    if training.use_gpu:
        room = torch.cuda.device_count() // max(1, training.num_workers)
    return max(1, min(room, config.search.max_concurrent_trials))


def _device(config: Experiment) -> torch.device:
    return torch.device("cuda" if config.training.use_gpu else "cpu")


def _plain(config: BaseModel) -> Any:
    return json.loads(masked(config.model_dump_json()))


def _log(config: Experiment, rows: list[tuple[str, Forecast, float | None]], whence: str) -> None:
    logger.info("settings\n\n%s", as_yaml(_plain(config)))
    header = ["run", "trained weights", "frozen weights", "MiB a worker", "tokens trained", "read", "GFLOP", "time"]
    cells = [(name, *_cells(found), _about(seconds)) for name, found, seconds in rows]
    logger.info("nothing is started\n\n%s\n", markdown_table(header, cells))
    logger.info("time: by %s", whence)
    for name in sorted({name for _, found, _ in rows for name in found.missing}):
        logger.info("not in the cache: %s", name)


def _cells(found: Forecast) -> tuple[str, ...]:
    counts: Mapping[str, int] = found.parameters or {}
    memory = "" if found.memory_mib is None else " / ".join(f"{size:,}" for size in found.memory_mib.values())
    tokens = ("", "") if found.tokens is None else (f"{found.tokens.train:,}", f"{found.tokens.read:,}")
    operations = "" if found.operations is None else f"{found.operations / 1e9:,.0f}"
    return (
        *(f"{counts[name]:,}" if name in counts else "" for name in ("trainable", "frozen")),
        memory,
        *tokens,
        operations,
    )


def _about(seconds: float | None) -> str:
    return "unknown time" if seconds is None else f"about {duration(seconds)}"
