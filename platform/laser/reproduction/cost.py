"""What a cell costs: tokens that the LLM reads, seconds by the speed of this machine, and memory as Linux counts it.

A forward pass costs 2 N operations a token, training through the frozen LLM 4 N (docs/performance.md). The speed is
that of stored runs of the same LLM. Where there are none it is that of a machine that was measured, with or without
native bf16.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from laser.config.schema import Experiment
from laser.data.dataset import Dataset
from laser.data.examples import Examples
from laser.data.prompts import Prompts
from laser.llm.loading import choose_dtype, llm_config, load_tokenizer
from laser.llm.source import resolve_llm
from laser.tracking.interface import StoredRun

REFERENCE_TRAIN_TOKENS = {torch.bfloat16: 1_330.0, torch.float32: 180.0}
"""Tokens a second, SmolLM2-135M with 30 blocks, forward and backward, on 2 cores: AMX in bf16, AVX2 in fp32."""
REFERENCE_BLOCKS = 30
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""What the kernel takes to begin counting anew (proc(5))."""


@dataclass(frozen=True)
class Cost:
    """The cost of one cell, or of several together."""

    train_tokens: int
    """Tokens passed forward and backward."""
    read_tokens: int
    """Tokens passed forward alone: catalogue, validation, test."""
    seconds: float
    """Estimated for an idle machine. The training of a recommender that is not cached comes on top, and so does the
    reading for a warm start, once for each prompt and prefix."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.train_tokens + other.train_tokens,
            self.read_tokens + other.read_tokens,
            self.seconds + other.seconds,
        )


def cell_cost(config: Experiment, dataset: Dataset, tokens_per_second: float | None) -> Cost:
    """The cost of one training run.

    Args:
        config: the cell's experiment.
        dataset: its data, prepared.
        tokens_per_second: of training, measured by runs of this LLM; None takes that of the measured machine.
    """
    cache, training = Path(config.cache_dir).expanduser(), config.training
    directory = resolve_llm(config.llm.source, cache)
    prompts = Prompts.build(dataset, config.prompt, load_tokenizer(directory), cache)
    virtual = config.mformer.num_virtual_tokens + 1

    def tokens(examples: Examples, users: int | None = None) -> int:
        examples = examples.last(config.prompt.max_history_items)
        if not len(examples):
            return 0
        mean = float(prompts.lengths(examples).mean()) + virtual
        return int(mean * min(len(examples), users or len(examples)))

    epochs = training.stage1_epochs + training.stage2_epochs
    train = epochs * tokens(dataset.examples("train"), training.train_users)
    read = (training.stage1_epochs + 1) * tokens(Examples.of_items(dataset.num_items))
    read += (epochs + 1) * tokens(dataset.examples("val"), training.validation_users)
    read += tokens(dataset.examples("test")) if training.test else 0
    if tokens_per_second is None:
        blocks = llm_config(directory, config.llm.num_layers, config.llm.trust_remote_code).get_text_config()
        dtype = choose_dtype(config.llm.dtype, torch.device("cuda" if training.use_gpu else "cpu"))
        tokens_per_second = REFERENCE_TRAIN_TOKENS[dtype] * REFERENCE_BLOCKS / blocks.num_hidden_layers
    return Cost(train, read, (train + read / 2) / tokens_per_second)


def measured_speed(runs: Iterable[StoredRun]) -> float | None:
    """Training tokens a second of the slowest stored run, which is on the safe side."""
    speeds = [run.figures("").get("tokens_per_second") for run in runs]
    return min((speed for speed in speeds if speed), default=None)


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Peak:
    """Holds the result of `peak_memory` after its block."""

    mib: float | None = None
    """Most resident memory during the block, what was there before included; None where the system does not say."""


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure the block's peak of resident memory, pages of mapped files included."""
    peak = Peak()
    counts = _reset()
    yield peak
    if counts:
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        peak.mib = int(line.split()[1]) / 1024


def _reset() -> bool:
    try:
        CLEAR.write_text(RESET_PEAK)
    except OSError:
        return False
    return True
