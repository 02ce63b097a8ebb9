"""The sharded LLM under ZeRO-3, in a process group of one."""

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
from laser.models.llm import load_llm
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
