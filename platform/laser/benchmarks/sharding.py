"""Suite sharding: how much of the frozen LLM a worker holds, and what a step costs, under each ZeRO level.

Each setting starts its workers anew: processes with one thread each, and gloo (or nccl) between them. They train over
the same sampled histories and report; the settings take turns. Ray would only start such workers, so it is left out.
Resident memory counts a file that two workers map twice, proportional memory once: so with a late prefix the difference
shows that the text cache is shared.
"""

import json
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from laser.benchmarks.measure import spread, wait
from laser.benchmarks.suites import BenchmarkResult
from laser.config.compose import with_overrides
from laser.config.jobs import BenchmarkJob
from laser.data.batches import training_batches
from laser.llm.loading import choose_dtype
from laser.training.artifacts import Artifacts
from laser.training.inputs import open_inputs
from laser.training.loop import CatalogueStep
from laser.training.model import around, whole_laser
from laser.training.prepare import make_artifacts

SETTINGS = ((1, 0), (1, 3), (2, 0), (2, 2), (2, 3))
"""(workers, ZeRO level)."""
MIB = 2**20


def run(job: BenchmarkJob) -> BenchmarkResult:
    """Measure each setting once a round."""
    job = with_overrides(job, {"training.train_users": job.benchmark.train_histories})
    artifacts = make_artifacts(job)
    found: dict[tuple[int, int], list[list[dict[str, float]]]] = {setting: [] for setting in SETTINGS}
    for number in range(job.benchmark.rounds):
        for setting in SETTINGS if number % 2 else reversed(SETTINGS):
            found[setting].append(_measured(job, artifacts, *setting))
    rows = [
        {
            "workers": workers,
            "stage": stage,
            "LLM held, MiB a worker": max(worker["llm_held_mib"] for worker in rounds[0]),
            "peak memory, MiB a worker": statistics.median(max(w["peak_mib"] for w in workers_) for workers_ in rounds),
            "resident, MiB a worker": max(worker["resident_mib"] for worker in rounds[0]),
            "proportional, MiB a worker": max(worker["proportional_mib"] for worker in rounds[0]),
            "seconds": statistics.median(workers_[0]["seconds"] for workers_ in rounds),
            "loss": rounds[0][0]["loss"],
        }
        for (workers, stage), rounds in found.items()
    ]
    by_setting = {(row["workers"], row["stage"]): row for row in rows}
    files = artifacts.texts
    held = "LLM held, MiB a worker"
    ratios = [three[0]["seconds"] / zero[0]["seconds"] for three, zero in zip(found[2, 3], found[2, 0], strict=True)]
    figures = {
        "settings": rows,
        "text_cache_mib": 0 if files is None else files.nbytes >> 20,
        "llm_held_2_workers_over_1": round(by_setting[2, 3][held] / by_setting[1, 3][held], 4),
        "zero3_cost_over_zero0": spread(ratios, 3),
    }
    return BenchmarkResult(figures, rows)


def _measured(job: BenchmarkJob, artifacts: Artifacts, workers: int, stage: int) -> list[dict[str, float]]:
    """Start the workers of one setting and collect what each reports."""
    overrides = {"training.num_workers": workers, "training.zero_stage": stage}
    text = with_overrides(job, overrides).model_dump_json()
    with tempfile.TemporaryDirectory() as folder:
        spawn(_worker, args=(workers, text, artifacts, folder), nprocs=workers)
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(workers)]


def _worker(rank: int, workers: int, text: str, artifacts: Artifacts, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers)}  # DeepSpeed asks for them
    from laser.engine.deepspeed import DeepSpeedEngine, sharded_llm
    from laser.engine.deepspeed_private import held_weight

    job = BenchmarkJob.model_validate_json(text)
    device = torch.device("cuda", rank) if job.training.use_gpu else torch.device("cpu")
    torch.set_num_threads(max(1, int(job.training.cpus_per_worker)))
    backend = "nccl" if job.training.use_gpu else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=rank, world_size=workers)
    inputs = open_inputs(job, artifacts)
    if job.training.zero_stage == 3:
        dtype = choose_dtype(job.loaded_llm.dtype, device)
        laser = around(sharded_llm(artifacts.llm_directory, dtype, job.loaded_llm, job.training), job, artifacts)
    else:
        laser = whole_laser(job, artifacts, device)
    engine = DeepSpeedEngine(laser, job.training, device)
    held = [held_weight(weight) for weight in laser.llm.parameters()]
    items_IH = torch.randn(len(inputs.items), laser.llm_width, generator=torch.Generator().manual_seed(0)).to(device)

    step = CatalogueStep(engine, inputs.train, items_IH, job.training)

    def epoch() -> float:
        loss = 0.0
        for indices in training_batches(inputs.train.lengths, job.training.batch_size, job.training.seed, 0):
            loss = step.take(step.prepare(indices), indices, 0, 1.0).contrastive
        wait(device)
        return loss

    epoch()  # warms up: kernels are compiled, and the prefetch learns the order of the blocks
    started = time.perf_counter()
    loss = epoch()
    report = {
        "llm_held_mib": sum(weight.numel() * weight.element_size() for weight in held) / MIB,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seconds": time.perf_counter() - started,
        "loss": loss,
    }
    dist.barrier()  # all workers hold what they hold
    report |= {"resident_mib": _memory_mib("Rss"), "proportional_mib": _memory_mib("Pss")}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(report))
    dist.barrier()
    dist.destroy_process_group()


def _memory_mib(name: str) -> float:
    """Return this process's resident memory (Rss), or with what it shares divided by those that share it (Pss)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024, 1)
