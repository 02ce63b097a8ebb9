"""Checks of DeepSpeed under our engine, each in processes of its own.

python tests/engine/deepspeed_checks.py <folder of an LLM> <empty folder>

DeepSpeed and torch.distributed are set up once in a process. Importing them takes seconds, so this process imports them
and forks for each check; it prints a JSON object with the traceback of each check that failed.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.distributed as dist

from laser.config.compose import with_overrides
from laser.config.schema import Experiment, LLMConfig, MFormerConfig, TrainingConfig
from laser.engine.deepspeed import DeepSpeedEngine, sharded_llm
from laser.engine.deepspeed_private import whole_shape
from laser.engine.step import training_step
from laser.llm.loading import load_llm
from laser.models.laser import build_laser
from tiny.laser import BASE, CPU, RECOMMENDER_WIDTH, batch, catalogue


def shards_hold_the_weights(llm: Path) -> None:
    for implementation in ("packed", "transformers"):
        settings = LLMConfig(implementation=implementation, compile=False)
        sharded = sharded_llm(llm, torch.bfloat16, settings, TrainingConfig(zero_stage=3))
        whole = load_llm(llm, torch.bfloat16, settings, CPU)
        for name, weight in whole.named_parameters():
            shard = sharded.get_parameter(name)
            assert shard.numel() == 0, f"{name} is held whole"
            assert torch.equal(shard.ds_tensor[: weight.numel()], weight.flatten()), name
        if implementation == "transformers":
            frequencies = sharded.rotary_emb.inv_freq
            assert frequencies.dtype == torch.float32 and torch.equal(frequencies, whole.rotary_emb.inv_freq)


def mlflow_is_left_to_the_driver(llm: Path) -> None:
    assert "mlflow" not in sys.modules
    assert find_spec("mlflow") is not None, "it is hidden from DeepSpeed alone"


def moments_are_read_again(llm: Path) -> None:
    mformer = MFormerConfig(num_experts=3, num_virtual_tokens=3, num_layers=1, hidden_size=8, num_heads=2)
    config = Experiment(mformer=mformer)
    for level in (0, 2, 3):
        whole = load_llm(llm, torch.float32, LLMConfig(compile=False), CPU)
        laser = build_laser(config, whole, recommender_width=5, embedding_std=0.1)
        engine = DeepSpeedEngine(laser, TrainingConfig(zero_stage=level), CPU)
        generator = torch.Generator().manual_seed(0)
        state = {"step": torch.tensor([7.0])}
        for name, parameter in laser.trainable_parameters().items():
            for moment in ("exp_avg", "exp_avg_sq"):
                state[f"{name}.{moment}"] = torch.rand(whole_shape(parameter), generator=generator)
        assert any(moment.numel() % 2 for moment in state.values()), "no shard ends in padding"
        engine.load_optimizer(state)
        found = engine.optimizer_state()
        assert found.keys() == state.keys()
        for name, moment in state.items():
            assert torch.equal(found[name], moment), f"level {level}: {name}"
        engine.load_optimizer(None)
        if level:
            assert not any(moment.any() for moment in engine.optimizer_state().values())


def weights_are_read_whole_after_an_evaluation(llm: Path) -> None:
    for prefix, weight in {"mformer": "mformer.router.score.weight", "projection": "projection.output.weight"}.items():
        config = with_overrides(BASE, {"training.zero_stage": 3, "llm.compile": False, "bituning.prefix": prefix})
        sharded = sharded_llm(llm, torch.float32, config.llm, config.training)
        laser = build_laser(config, sharded, RECOMMENDER_WIDTH, embedding_std=0.1)
        engine = DeepSpeedEngine(laser, config.training, CPU)
        for _ in range(3):
            training_step(engine, [batch()], catalogue(laser), config.training, 1.0)
            laser.eval()
            with torch.no_grad():
                engine.forward(batch())  # after which ZeRO-3 prefetches for a backward pass
            assert engine.trainable_state()[weight].any()
            laser.train()


CHECKS: dict[Callable[[Path], None], int] = {
    shards_hold_the_weights: 1,
    mlflow_is_left_to_the_driver: 1,
    moments_are_read_again: 2,
    weights_are_read_whole_after_an_evaluation: 1,
}
"""Check → number of workers."""


def main(llm: Path, folder: Path) -> None:
    failures = {}
    for check, workers in CHECKS.items():
        place = folder / check.__name__
        place.mkdir()
        children = [_fork(check, llm, place, rank, workers) for rank in range(workers)]
        status = [os.waitpid(child, 0)[1] for child in children]
        if any(status):
            failures[check.__name__] = "\n".join(
                [f"statuses {status}", *(path.read_text() for path in place.glob("*.txt"))]
            )
    print(json.dumps(failures))


def _fork(check: Callable[[Path], None], llm: Path, place: Path, rank: int, workers: int) -> int:
    child = os.fork()
    if child:
        return child
    try:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers)}
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{place}/meeting", rank=rank, world_size=workers)
        check(llm)
        dist.barrier()
    except BaseException:
        (place / f"{rank}.txt").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
