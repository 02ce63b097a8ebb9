"""Computes the losses of twenty optimizer steps of Laser on real histories, and stores them as golden.

python tests/numerics/golden.py     # writes golden.json anew; do so only when a change of the losses is intended

Every call into the code under test stands in this module, so that a changed interface touches one place.
"""

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from laser.config.compose import validate, with_overrides
from laser.config.families.recommenders import SASRecConfig
from laser.config.schema import DataConfig, Experiment, LLMConfig
from laser.conversion.source import resolve_llm
from laser.engine.base import Engine
from laser.engine.plain import PlainEngine
from laser.engine.schedule import Schedule
from laser.recommenders.registry import build_recommender
from laser.recommenders.storage import save_recommender
from laser.sources.prepare import prepare_dataset
from laser.training.artifacts import Artifacts
from laser.training.inputs import Inputs, open_inputs
from laser.training.loop import CatalogueStep, encode_items, train_epoch
from laser.training.model import around, whole_laser
from laser.training.prepare import make_artifacts

GOLDEN = Path(__file__).with_name("golden.json")
STEPS, BATCH_SIZE = 20, 9
CPU = torch.device("cpu")
MICRO_BATCH_SIZES = {"tiny": 4, "smollm2": 5}
"""LLM → histories in one pass. With SmolLM2 two workers take one pass a step; ZeRO-3 gathers 113 MB in each."""
AFTER = {"bituning.prefix_position": "after"}
VARIANTS: dict[str, dict[str, object]] = {
    "before": {},
    "after": AFTER,
    "own": {**AFTER, "prompt.item_attention": "own"},
    "lora": {"finetuning.type": "lora"},
    "peso": {"finetuning.type": "peso", "finetuning.restart_every": 6, "finetuning.probe_batches": 2},
}
"""Place of the prefix, or weights of the LLM that are trained → the settings that say so."""
CASES = ("tiny-before", "smollm2-before", "tiny-after", "tiny-own", "smollm2-own", "tiny-lora", "tiny-peso")

Losses = list[list[float]]
"""Each step's contrastive loss and load-balance loss."""
Run = tuple[str, int]
"""A case, and the ZeRO level of the two workers that train it."""


@dataclass(frozen=True)
class Parts:
    """Holds the directories that a training reads."""

    cache: Path
    llms: dict[str, Path]
    """Name of an LLM → its directory."""
    recommender: Path
    """Directory of an untrained recommender; a trained one would differ from machine to machine."""


def make_parts(cache: Path, folder: Path) -> Parts:
    """Find the data and SmolLM2 in the cache, and make the tiny LLM and the recommender in the folder."""
    from tiny.llm import save_tiny_llm

    parts = Parts(
        cache, {"tiny": folder / "tiny", "smollm2": resolve_llm(LLMConfig().source, cache)}, folder / "recommender"
    )
    save_tiny_llm(parts.llms["tiny"])
    settings, num_items = SASRecConfig(hidden_size=16), prepare_dataset(DataConfig(), cache).num_items
    with torch.random.fork_rng():
        torch.manual_seed(0)
        recommender = build_recommender(settings, num_items)
    parts.recommender.mkdir()
    save_recommender(recommender, settings, num_items, parts.recommender)
    return parts


def experiment(case: str, parts: Parts, workers: int = 0, zero_stage: int = 0) -> Experiment:
    """Return the settings of a case. The last batch is smaller, and the shards of two workers are uneven."""
    llm, variant = case.split("-")
    config = validate(
        Experiment,
        {
            "cache_dir": str(parts.cache),
            "prompt": {"attributes": [], "instruction": "Sum up", "max_history_items": 3, "max_item_tokens": 8},
            "llm": {"source": str(parts.llms[llm]), "num_layers": 2, "dtype": "fp32", "compile": False},
            "mformer": {
                "num_experts": 3, "num_virtual_tokens": 4, "num_layers": 2, "hidden_size": 32, "num_heads": 4,
            },
            "training": {
                "batch_size": BATCH_SIZE, "micro_batch_size": MICRO_BATCH_SIZES[llm], "learning_rate": 1e-3,
                "train_users": STEPS * BATCH_SIZE - 4, "inference_batch_tokens": 8192,
                "num_workers": workers, "zero_stage": zero_stage,
            },
        },
    )  # fmt: skip
    return with_overrides(config, VARIANTS[variant])


def train(engine: Engine, inputs: Inputs, config: Experiment) -> Losses:
    """Encode the catalogue and train one epoch of stage 1, which is twenty steps."""
    items_ID = encode_items(engine, inputs.items, config.training)
    losses: Losses = []

    class Noted(CatalogueStep):
        def take(self, *arguments):
            result = super().take(*arguments)
            losses.append([result.contrastive, result.load_balance])
            return result

    schedule = Schedule(config.training, 0, 0, STEPS)
    step = Noted(engine, inputs.train, items_ID, config.training)
    train_epoch(engine, inputs.train, step, config.training, 0, "golden", schedule, len(inputs.items))
    assert len(losses) == STEPS
    return losses


def losses_in_one_process(case: str, parts: Parts) -> Losses:
    """Train in plain torch on one thread; on a busy machine several threads wait for one another."""
    config = experiment(case, parts)
    artifacts = make_artifacts(config, parts.recommender)
    inputs = open_inputs(config, artifacts)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return train(PlainEngine(whole_laser(config, artifacts, CPU), config.training, CPU), inputs, config)
    finally:
        torch.set_num_threads(threads)


def losses_of_two_workers(runs: Sequence[Run], parts: Parts) -> dict[Run, list[Losses]]:
    """Train with DeepSpeed and return each worker's losses. One pair of processes makes all runs, one after another."""
    artifacts = {case: make_artifacts(experiment(case, parts), parts.recommender) for case, _ in runs}
    with tempfile.TemporaryDirectory() as folder:
        spawn(_worker, args=(runs, parts, artifacts, Path(folder)), nprocs=2)
        seen = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(2)]
    return {run: [worker[number] for worker in seen] for number, run in enumerate(runs)}


def _worker(rank: int, runs: Sequence[Run], parts: Parts, artifacts: dict[str, Artifacts], folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}  # DeepSpeed asks for them
    from laser.engine.deepspeed import DeepSpeedEngine, sharded_llm

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # DeepSpeed calls old names
    seen = []
    for case, zero_stage in runs:
        config = experiment(case, parts, 2, zero_stage)
        if zero_stage == 3:
            sharded = sharded_llm(artifacts[case].llm_directory, torch.float32, config.loaded_llm, config.training)
            laser = around(sharded, config, artifacts[case])
        else:
            laser = whole_laser(config, artifacts[case], CPU)
        inputs = open_inputs(config, artifacts[case])
        seen.append(train(DeepSpeedEngine(laser, config.training, CPU), inputs, config))
    (folder / f"{rank}.json").write_text(json.dumps(seen))
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Train each case in this process and store its losses."""
    repo = Path(__file__).resolve().parents[2]
    sys.path.append(str(repo / "tests"))
    with tempfile.TemporaryDirectory() as folder:
        parts = make_parts(repo / ".cache" / "laser", Path(folder))
        golden = {case: losses_in_one_process(case, parts) for case in CASES}
    lines = [f"{json.dumps(case)}: [\n" + ",\n".join(map(json.dumps, steps)) + "\n]" for case, steps in golden.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
