"""DeepSpeed under our engine: the LLM in shards, and Adam's moments restored at each ZeRO level."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from laser.config.schema import LLMConfig, TrainingConfig
from laser.llm.loading import load_llm
from laser.engine.deepspeed import sharded_llm

directory, meeting = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
for implementation in ("packed", "transformers"):
    settings = LLMConfig(implementation=implementation, compile=False)
    sharded = sharded_llm(Path(directory), torch.bfloat16, settings, TrainingConfig(zero_stage=3))
    whole = load_llm(Path(directory), torch.bfloat16, settings, torch.device("cpu"))
    for name, weight in whole.named_parameters():
        shard = sharded.get_parameter(name)
        assert shard.numel() == 0, f"{name} is held whole"
        assert torch.equal(shard.ds_tensor[: weight.numel()], weight.flatten()), name
    if implementation == "transformers":
        frequencies = sharded.rotary_emb.inv_freq
        assert frequencies.dtype == torch.float32 and torch.equal(frequencies, whole.rotary_emb.inv_freq)
"""


def test_shards_hold_the_weights_and_rotary_frequencies_are_not_rounded(tiny_llm: Path, tmp_path: Path):
    command = [sys.executable, "-c", SCRIPT, str(tiny_llm), str(tmp_path / "meeting")]
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    done = subprocess.run(command, env={**os.environ, **ranks}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


MOMENTS = """
import os
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from laser.config.schema import Experiment, LLMConfig, MFormerConfig, TrainingConfig
from laser.engine.deepspeed import DeepSpeedEngine
from laser.engine.deepspeed_private import whole_shape
from laser.models.laser import build_laser
from laser.llm.loading import load_llm

WORKERS = 2


def main(rank: int, directory: str, meeting: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORKERS)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORKERS)
    device = torch.device("cpu")
    mformer = MFormerConfig(num_experts=3, num_virtual_tokens=3, num_layers=1, hidden_size=8, num_heads=2)
    config = Experiment(mformer=mformer)
    for level in (0, 2, 3):
        llm = load_llm(Path(directory), torch.float32, LLMConfig(compile=False), device)
        laser = build_laser(config, llm, recommender_width=5, embedding_std=0.1)
        engine = DeepSpeedEngine(laser, TrainingConfig(zero_stage=level), device)
        generator = torch.Generator().manual_seed(0)
        state = {"step": torch.tensor([7.0])}
        for name, parameter in laser.trainable_parameters().items():
            for moment in ("exp_avg", "exp_avg_sq"):
                state[f"{name}.{moment}"] = torch.rand(whole_shape(parameter), generator=generator)
        assert any(moment.numel() % WORKERS for moment in state.values()), "no shard ends in padding"
        engine.load_optimizer(state)
        found = engine.optimizer_state()
        assert found.keys() == state.keys()
        for name, moment in state.items():
            assert torch.equal(found[name], moment), f"level {level}: {name}"
        engine.load_optimizer(None)
        if level:
            assert not any(moment.any() for moment in engine.optimizer_state().values())
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    spawn(main, args=(sys.argv[1], sys.argv[2]), nprocs=WORKERS)
"""


def test_moments_that_are_written_before_the_first_step_are_read_again(tiny_llm: Path, tmp_path: Path):
    script = tmp_path / "moments.py"  # a file, because the workers import it
    script.write_text(MOMENTS)
    command = [sys.executable, str(script), str(tiny_llm), str(tmp_path / "meeting")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


EVALUATED = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from laser.config.compose import with_overrides
from laser.engine.deepspeed import DeepSpeedEngine, sharded_llm
from laser.engine.step import training_step
from laser.models.laser import build_laser
from tiny.laser import BASE, CPU, RECOMMENDER_WIDTH, batch, catalogue

directory, meeting = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
config = with_overrides(BASE, {"training.zero_stage": 3, "llm.compile": False})
llm = sharded_llm(Path(directory), torch.float32, config.llm, config.training)
laser = build_laser(config, llm, RECOMMENDER_WIDTH, embedding_std=0.1)
engine = DeepSpeedEngine(laser, config.training, CPU)
for _ in range(3):
    training_step(engine, [batch()], catalogue(laser), config.training, 1.0)
    laser.eval()
    with torch.no_grad():
        engine.forward(batch())  # after which ZeRO-3 prefetches for a backward pass
    assert engine.trainable_state()["mformer.router.score.weight"].any()
    laser.train()
"""


def test_weights_are_read_whole_after_an_evaluation(tiny_llm: Path, tmp_path: Path):
    command = [sys.executable, "-c", EVALUATED, str(tiny_llm), str(tmp_path / "meeting")]
    paths = {"PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).resolve().parents[1])])}
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    done = subprocess.run(command, env={**os.environ, **ranks, **paths}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
