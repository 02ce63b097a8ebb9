"""Suite train: histories per second of Laser's optimizer steps, beside HF Trainer with peft's prompt tuning.

All read the same items of the same sampled histories with the same frozen LLM in the same dtype. All take the same loss
over the whole catalogue, and each has the best of its batch sizes. The peer only trains free virtual tokens; ours also
pays for the M-Former. `late` is ours with the prefix after the text, whose keys and values are cached item by item;
what the cache takes is reported apart. Its batches are larger, so it takes more histories a round, and ratios are those
of tokens per second. A token counts whether the LLM runs it or a cache holds it; padding does not.
"""

import gc
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laser.benchmarks.contestants.trainer import PeerTrainer
from laser.benchmarks.measure import Timing, Work, matrix_product, ratio, take_turns, wait
from laser.benchmarks.suites import BenchmarkResult
from laser.config.compose import with_overrides
from laser.config.jobs import BenchmarkJob
from laser.data.batches import training_batches
from laser.engine.histories import Histories
from laser.engine.plain import PlainEngine
from laser.engine.step import training_step
from laser.llm.loading import choose_dtype
from laser.training.inputs import Inputs
from laser.training.model import whole_laser
from laser.training.prepare import prepare_inputs

BATCH_SIZES = (4, 8, 16, 32)
LATE_BATCH_SIZES = (32, 64, 128, 256)
"""A late prefix passes some twenty times fewer tokens of each history through the LLM."""
LATE = {"bituning.prefix_position": "after", "prompt.item_attention": "own"}


def run(job: BenchmarkJob) -> BenchmarkResult:
    """Find the best batch size of each contestant in one round, then let the best take turns."""
    device = torch.device("cuda" if job.training.use_gpu else "cpu")
    job = with_overrides(job, {"training.train_users": job.benchmark.train_histories})
    inputs = prepare_inputs(job)
    ours = Ours(job, inputs, device)
    started = time.perf_counter()
    with_late_prefix = late_job(job)
    late_inputs = prepare_inputs(with_late_prefix)
    cache_seconds = time.perf_counter() - started
    late = Ours(with_late_prefix, late_inputs, device)
    peer = PeerTrainer(job, inputs, ours.item_embeddings_IH, device)
    peer_sizes = [size for size in BATCH_SIZES if peer.padded_tokens(size) <= job.benchmark.train_peer_max_tokens]
    trials = {f"ours {size}": ours.epoch(size) for size in BATCH_SIZES}
    trials |= {f"late {size}": late.epoch(size) for size in LATE_BATCH_SIZES}
    trials |= {f"peer {size}": peer.epoch(size) for size in peer_sizes}
    first = take_turns(trials, rounds=1, warmup=0)
    size, late_size, peer_size = (_best(first, name) for name in ("ours", "late", "peer"))

    multiply, operations = matrix_product(choose_dtype(job.llm.dtype, device), device)
    contestants: dict[str, Work] = {
        "peak": multiply,
        "ours": ours.epoch(size),
        "llm alone": ours.llm_alone(size),
        "late": late.epoch(late_size),
        "late llm alone": late.llm_alone(late_size),
        "peer": peer.epoch(peer_size),
    }
    timings = take_turns(contestants, job.benchmark.rounds, job.benchmark.warmup_rounds)
    peak = timings["peak"].per_second(operations)
    num_tokens, added = ours.num_tokens, ours.engine.laser.num_added_tokens
    tokens = {"ours": num_tokens, "llm alone": num_tokens, "late": late.num_tokens, "peer": num_tokens}
    histories = {name: ours.num_histories for name in tokens} | {"late": late.num_histories}
    run_tokens = tokens | {"late": added * late.num_histories}
    operations_per_token = 4.0 * ours.engine.laser.llm_block_weights
    utilisation = timings["llm alone"].per_second(operations_per_token * num_tokens) / peak
    bound = late.num_tokens / run_tokens["late"]  # (T + L + 1) / (L + 1): what a step saves of the LLM's products
    more = late.num_tokens / num_tokens
    late_over_before = ratio(timings["ours"], timings["late"], more)
    figures = {
        "histories_per_second": {name: timings[name].per_second(histories[name]) for name in ("ours", "late", "peer")},
        "tokens_per_second": {name: timings[name].per_second(tokens[name]) for name in tokens},
        "batch_size": {"ours": size, "late": late_size, "peer": peer_size},
        "seconds": {name: timing.as_figures() for name, timing in timings.items()},
        "seconds_by_batch_size": {name: round(timing.median, 3) for name, timing in first.items()},
        "speedup_over_peer": ratio(timings["peer"], timings["ours"]),
        "ratio": ratio(timings["peer"], timings["late"], more),
        "late_over_before": late_over_before,
        "fraction_of_bound": round(late_over_before["median"] / bound, 3),
        "bound": round(bound, 2),
        "text_cache": {"mib": late.text_mib, "seconds": round(cache_seconds, 1)},
        "llm_utilisation": round(utilisation, 4),
        "step_share_outside_llm": {
            "ours": round(1 - timings["llm alone"].median / timings["ours"].median, 4),
            "late": round(1 - timings["late llm alone"].median / timings["late"].median, 4),
        },
        "peak_gflops": round(peak / 1e9, 1),
        "tokens_per_history": {name: round(tokens[name] / histories[name], 1) for name in ("ours", "late")},
        "peer_padding_share": round(1 - num_tokens / peer.padded_tokens_of_epoch(peer_size), 3),
        "loss_difference_to_transformers": ours.difference_to_transformers(peer_size),
        "loss_curve": {"ours": ours.losses[:8], "late": late.losses[:8], "peer": peer.losses[:8]},
    }
    rows = [
        {
            "contestant": name,
            "batch": batch,
            "seconds": timings[name].median,
            "histories/s": timings[name].per_second(histories[name]),
            "tokens/s": timings[name].per_second(tokens[name]),
            "of peak, 4 N a token run": timings[name].per_second(operations_per_token * run_tokens[name]) / peak,
        }
        for name, batch in (("ours", size), ("llm alone", size), ("late", late_size), ("peer", peer_size))
    ]
    return BenchmarkResult(figures, rows)


def late_job(job: BenchmarkJob) -> BenchmarkJob:
    """Return the job with the prefix after the text, whose steps are short: it takes more histories a round."""
    return with_overrides(job, LATE | {"training.train_users": job.benchmark.late_histories})


def _best(timings: dict[str, Timing], contestant: str) -> int:
    """Return the batch size with the shortest time of all `<contestant> <batch size>`."""
    times = {name: timing.median for name, timing in timings.items() if name.startswith(contestant)}
    return int(min(times, key=lambda name: times[name]).split()[1])


def text_embeddings(laser: Any, items: Histories) -> Tensor:
    """Make a stand-in catalogue (I, H) in seconds: each item's mean token embedding, centred, at length 1."""
    table_VH = laser.llm.get_input_embeddings().weight
    prompts = items.prompts
    rows = [table_VH[torch.tensor(prompts.item(i))].float().mean(dim=0) for i in range(len(items))]
    embeddings_IH = torch.stack(rows)
    return torch.nn.functional.normalize(embeddings_IH - embeddings_IH.mean(dim=0), dim=-1)


@dataclass
class _Epoch:
    """One pass of our training loop over the sampled histories, at one batch size."""

    engine: PlainEngine
    inputs: Inputs
    item_embeddings_IH: Tensor
    config: Any
    batch_size: int
    losses: list[float]

    def __call__(self) -> None:
        histories = self.inputs.train
        parts = training_batches(histories.lengths, self.batch_size, self.config.seed, 0)
        with histories.batches(parts, self.engine.device) as batches:
            for batch in batches:
                result = training_step(self.engine, [batch], self.item_embeddings_IH, self.config, 1.0)
                self.losses.append(round(result.contrastive, 4))
        wait(self.engine.device)


class Ours:
    """Laser under the plain engine."""

    def __init__(self, job: BenchmarkJob, inputs: Inputs, device: torch.device) -> None:
        self.job, self.inputs, self.device = job, inputs, device
        laser = whole_laser(job, inputs.artifacts, device)
        self.engine = PlainEngine(laser, job.training, device)
        self.item_embeddings_IH = text_embeddings(laser, inputs.items).to(device)
        self.num_histories = len(inputs.train)
        self.num_tokens = int(inputs.train.lengths.sum()) + laser.num_added_tokens * self.num_histories
        self.losses: list[float] = []
        self.text_mib = 0 if inputs.train.text is None else inputs.train.text.cached_bytes >> 20

    def epoch(self, batch_size: int) -> Work:
        """Return optimizer steps over all histories, data and update included."""
        return _Epoch(self.engine, self.inputs, self.item_embeddings_IH, self.job.training, batch_size, self.losses)

    def llm_alone(self, batch_size: int) -> Work:
        """Return forward and backward of the LLM alone over the same batches, without M-Former, loss and update."""
        laser, histories = self.engine.laser, self.inputs.train
        sizes = training_batches(histories.lengths, batch_size, self.job.training.seed, 0)
        batches = [histories.batch(indices, [1.0] * len(indices), self.device) for indices in sizes]

        def pass_through() -> None:
            for batch in batches:
                shape = (len(batch.targets_B), laser.num_virtual_tokens, laser.llm_width)
                std = self.inputs.artifacts.embedding_std
                prefix_BLH = (std * torch.randn(shape, device=self.device)).requires_grad_()
                read_BH = laser.bituning(laser.llm, prefix_BLH, batch.token_ids_Q, batch.text_lengths_B, batch.text)
                read_BH.sum().backward()
            laser.zero_grad(set_to_none=True)
            wait(self.device)

        return pass_through

    def difference_to_transformers(self, batch_size: int) -> dict[str, float]:
        """Return the largest difference of the first two losses from those with `transformers`' own decoder.

        Later losses also differ by what rounding has moved. `transformers` needs the memory of the peer's batches.
        """
        curves = []
        for implementation in ("auto", "transformers"):
            job = with_overrides(self.job, {"llm.implementation": implementation})
            engine = PlainEngine(whole_laser(job, self.inputs.artifacts, self.device), job.training, self.device)
            losses: list[float] = []
            _Epoch(engine, self.inputs, self.item_embeddings_IH, job.training, batch_size, losses)()
            curves.append(np.array(losses[:2]))
            del engine
            gc.collect()
        return {"largest": float(np.abs(curves[0] - curves[1]).max()), "loss": float(curves[1].mean())}
