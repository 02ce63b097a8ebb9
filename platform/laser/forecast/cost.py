"""What a training costs: tokens that pass through the LLM, and seconds by the speed of a machine.

A forward pass costs 2 N operations a token, training through the frozen LLM 4 N (docs/performance.md). The speed is
that of stored runs of the same LLM. Where there are none it is that of a machine that was measured, with or without
native bf16.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from laser.config.schema import Experiment
from laser.conversion.source import resolve_llm
from laser.data.dataset import Dataset
from laser.data.examples import Examples
from laser.data.prompts import Prompts
from laser.data.selected import select_examples
from laser.llm.late_text import TOKENS_LOOKED_UP
from laser.llm.loading import choose_dtype, llm_config, load_tokenizer
from laser.tracking.interface import StoredRun

REFERENCE_TRAIN_TOKENS = {torch.bfloat16: 1_330.0, torch.float32: 180.0}
"""Tokens a second, SmolLM2-135M with 30 blocks, forward and backward, on 2 cores: AMX in bf16, AVX2 in fp32."""
REFERENCE_BLOCKS = 30


@dataclass(frozen=True)
class Tokens:
    """What passes through the LLM in one training run. A token that a cache holds counts as an eighth."""

    train: int
    """Passed forward and backward."""
    read: int
    """Passed forward alone: catalogue, validation, test."""
    train_histories: int
    """Histories that `train` is of, one for each time that it is read."""
    read_histories: int


@dataclass(frozen=True)
class Cost:
    """The cost of one cell, or of several together."""

    train_tokens: int
    """Tokens passed forward and backward."""
    read_tokens: int
    """Tokens passed forward alone: catalogue, validation, test."""
    seconds: float
    """Estimated for an idle machine. What is not cached comes on top: the training of a recommender, the reading for a
    warm start, and that of a late prefix's texts."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.train_tokens + other.train_tokens,
            self.read_tokens + other.read_tokens,
            self.seconds + other.seconds,
        )


def run_tokens(config: Experiment, dataset: Dataset, prompts: Prompts) -> Tokens:
    """Count what one training run passes through the LLM. What artifacts need, which runs share, is not in it."""
    training, late = config.training, config.bituning.prefix_position == "after"
    prefix = config.mformer.num_virtual_tokens if config.bituning.prefix != "none" else 0
    virtual = prefix + (config.bituning.representation != "mean")
    parts = select_examples(dataset, config)

    def tokens(part: Examples) -> int:
        lengths = prompts.lengths(part)
        return int((lengths // TOKENS_LOOKED_UP if late else lengths).sum()) + virtual * len(part)

    epochs = training.stage0_epochs + training.stage1_epochs + training.stage2_epochs
    # A stage 0 step reads a user's next item and negatives too.
    candidates = 1 + (training.num_negatives if training.negatives == "sampled" else 0)
    times = {
        "items": training.stage0_epochs + training.stage1_epochs + 1,
        "val": epochs + 1,
        "test": int(training.test),
    }
    item = tokens(parts["items"]) / max(len(parts["items"]), 1)
    of_stage0 = training.stage0_epochs * candidates * len(parts["train"])
    return Tokens(
        train=epochs * tokens(parts["train"]) + int(of_stage0 * item),
        read=sum(number * tokens(parts[split]) for split, number in times.items()),
        train_histories=epochs * len(parts["train"]) + of_stage0,
        read_histories=sum(number * len(parts[split]) for split, number in times.items()),
    )


def cell_cost(config: Experiment, dataset: Dataset, tokens_per_second: float | None) -> Cost:
    """Return the cost of one training run.

    Args:
        config: the cell's experiment.
        dataset: its data, prepared.
        tokens_per_second: of training, measured by runs of this LLM; None takes that of the measured machine.
    """
    cache = Path(config.cache_dir).expanduser()
    directory = resolve_llm(config.llm.source, cache)
    tokens = run_tokens(config, dataset, Prompts.build(dataset, config.prompt, load_tokenizer(directory), cache))
    if tokens_per_second is None:
        blocks = llm_config(directory, config.llm.num_layers, config.llm.trust_remote_code).get_text_config()
        dtype = choose_dtype(config.llm.dtype, torch.device("cuda" if config.training.use_gpu else "cpu"))
        tokens_per_second = REFERENCE_TRAIN_TOKENS[dtype] * REFERENCE_BLOCKS / blocks.num_hidden_layers
    return Cost(tokens.train, tokens.read, (tokens.train + tokens.read / 2) / tokens_per_second)


def measured_speed(runs: Iterable[StoredRun]) -> float | None:
    """Training tokens a second of the slowest stored run, which is on the safe side."""
    speeds = [run.figures("").get("tokens_per_second") for run in runs]
    return min((speed for speed in speeds if speed), default=None)


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
