"""The parts of suite gpu that measure speed: bounds of the device, optimizer steps, encoding, ranks.

Shape suffixes: B histories, T text tokens, L virtual tokens, I items, H width.
"""

import logging
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch

from laser.benchmarks.contestants.trainer import PeerTrainer
from laser.benchmarks.encode import encoding, sampled_batches
from laser.benchmarks.gpu_parts.training import SMALL_INPUTS
from laser.benchmarks.measure import Timing, Work, matrix_product, ratio, take_turns, wait
from laser.benchmarks.train import Ours, late_job
from laser.config.compose import with_overrides
from laser.config.jobs import BenchmarkJob
from laser.evaluation.ranking import catalogue_ranks
from laser.llm.loading import choose_dtype
from laser.training.inputs import Inputs
from laser.training.loop import encode_items, evaluate
from laser.training.prepare import prepare_inputs

logger = logging.getLogger(__name__)

REPEATS = 8
"""Times that a short work is started before the device is waited for."""
SMALL = SMALL_INPUTS | {
    "benchmark.train_histories": 16,
    "benchmark.late_histories": 16,
    "benchmark.encode_items": 32,
    "benchmark.rounds": 1,
    "benchmark.warmup_rounds": 0,
}


def scaled(job: BenchmarkJob) -> BenchmarkJob:
    """Return the job at its scale, with a sample of the training users."""
    if job.benchmark.gpu_scale == "small":
        job = with_overrides(job, SMALL)
    return with_overrides(job, {"training.train_users": job.benchmark.train_histories})


def suite_experiments(job: BenchmarkJob) -> list[BenchmarkJob]:
    """Return the experiments whose artifacts the measurements of speed read: both placements of the prefix."""
    job = scaled(job)
    return [job, late_job(job)]


class Speed:
    """Measures on one device; what several parts need is made once."""

    def __init__(self, job: BenchmarkJob, device: torch.device) -> None:
        self.small = job.benchmark.gpu_scale == "small"
        self.job = scaled(job)
        self.device = device
        self.dtype = choose_dtype(job.llm.dtype, device)
        self.peak, self.bandwidth = 0.0, 0.0
        self.before_histories_per_second = self.late_histories_per_second = 0.0

    def turns(self, contestants: dict[str, Work]) -> dict[str, Timing]:
        return take_turns(contestants, self.job.benchmark.rounds, self.job.benchmark.warmup_rounds)

    @cached_property
    def inputs(self) -> Inputs:
        return prepare_inputs(self.job)

    @cached_property
    def late_inputs(self) -> Inputs:
        return prepare_inputs(late_job(self.job))

    def device_bounds(self) -> dict[str, Any]:
        """Measure the products' peak and the memory's bandwidth: the two bounds of all that follows."""
        size = 512 if self.small else 8192
        multiply, operations = matrix_product(self.dtype, self.device, size)
        source = torch.empty((16 if self.small else 2048) << 20, dtype=torch.uint8, device=self.device).fill_(1)
        target = torch.empty_like(source)
        small, _ = matrix_product(self.dtype, self.device, 16)

        def copy() -> None:
            for _ in range(REPEATS):
                target.copy_(source)
            wait(self.device)

        def multiply_often() -> None:
            for _ in range(REPEATS):
                multiply()

        def wait_often() -> None:
            for _ in range(REPEATS):
                small()

        timings = self.turns({"product": multiply_often, "copy": copy, "launch": wait_often})
        self.peak = timings["product"].per_second(operations * REPEATS)
        self.bandwidth = timings["copy"].per_second(2.0 * source.nbytes * REPEATS)
        return {
            "product_tflops": self.peak / 1e12,
            "bandwidth_gb_per_second": self.bandwidth / 1e9,
            "launch_and_wait_us": timings["launch"].median / REPEATS * 1e6,
            "product_size": size,
            "dtype": str(self.dtype),
        }

    def sizes(self, full: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(size // full[0] * 4 for size in full[:2]) if self.small else full

    def best(self, sizes: tuple[int, ...], epoch: Callable[[int], Work]) -> tuple[int, dict[str, float]]:
        """Return the batch size with the shortest time of one round, and the times of all that fit into memory."""
        seconds: dict[str, float] = {}
        for size in sizes:
            try:
                timing = take_turns({"": epoch(size)}, 1, 0 if self.small else 1)[""]
            except torch.OutOfMemoryError:
                logger.warning("batches of %d do not fit into the device's memory", size)
                break
            seconds[str(size)] = round(timing.median, 4)
        return int(min(seconds, key=lambda name: seconds[name])), seconds

    def before(self) -> dict[str, Any]:
        """Measure the paper's placement beside HF Trainer with peft's prompt tuning, each at its best batch size."""
        inputs = self.inputs
        ours = Ours(self.job, inputs, self.device)
        size, by_size = self.best(self.sizes((32, 64, 128, 256)), ours.epoch)
        num_histories, num_tokens = len(inputs.train), ours.num_tokens
        peer = PeerTrainer(self.job, inputs, ours.item_embeddings_IH, self.device)
        most = self.job.benchmark.train_peer_max_tokens
        peer_sizes = self.sizes((16, 32, 64, 128))
        fitting = tuple(each for each in peer_sizes if peer.padded_tokens(each) <= most) or peer_sizes[:1]
        peer_size, peer_by_size = self.best(fitting, peer.epoch)
        timings = self.turns({"ours": ours.epoch(size), "llm": ours.llm_alone(size), "peer": peer.epoch(peer_size)})
        work = 4.0 * ours.engine.laser.llm_block_weights * num_tokens
        self.before_histories_per_second = timings["ours"].per_second(num_histories)
        return {
            "histories_per_second": self.before_histories_per_second,
            "peer_histories_per_second": timings["peer"].per_second(num_histories),
            "speedup_over_peer": ratio(timings["peer"], timings["ours"]),
            "utilisation": self.of_peak(timings["ours"].per_second(work)),
            "llm_utilisation": self.of_peak(timings["llm"].per_second(work)),
            "peer_utilisation": self.of_peak(timings["peer"].per_second(work)),
            "tokens_per_second": timings["ours"].per_second(num_tokens),
            "tokens_per_history": num_tokens / num_histories,
            "batch_size": {"ours": size, "peer": peer_size},
            "seconds_by_batch_size": {"ours": by_size, "peer": peer_by_size},
            "loss_difference_to_transformers": ours.difference_to_transformers(size),
        }

    def of_peak(self, operations_per_second: float) -> float | None:
        """Return the part of the measured peak; None if that part of the suite failed."""
        return round(operations_per_second / self.peak, 4) if self.peak else None

    def late(self, capture: bool = False) -> dict[str, Any]:
        """Measure the prefix after the text, over cached keys and values, beside what the device allows.

        Args:
            capture: replay the LLM's part of a step as a CUDA graph; measured after steps without.
        """
        started = time.perf_counter()
        inputs = self.late_inputs
        cache_seconds = time.perf_counter() - started
        late = Ours(with_overrides(late_job(self.job), {"training.capture": capture}), inputs, self.device)
        size, by_size = self.best(self.sizes((128, 256, 512, 1024)), late.epoch)
        timings = self.turns({"late": late.epoch(size), "llm": late.llm_alone(size)})
        per_second = timings["late"].per_second(len(inputs.train))
        figures: dict[str, Any] = {
            "histories_per_second": per_second,
            "llm_alone_histories_per_second": timings["llm"].per_second(len(inputs.train)),
            "batch_size": size,
            "seconds_by_batch_size": by_size,
            "text_cache_mib": late.text_mib,
            "text_cache_seconds": round(cache_seconds, 1),
        }
        if self.before_histories_per_second:
            figures["over_before"] = per_second / self.before_histories_per_second
        if not capture:
            self.late_histories_per_second = per_second
        elif self.late_histories_per_second:
            figures["over_eager"] = per_second / self.late_histories_per_second
        if self.peak and self.bandwidth:
            figures |= self.roofline(late, inputs, size, per_second)
        return figures

    def roofline(self, late: Ours, inputs: Inputs, size: int, per_second: float) -> dict[str, Any]:
        """Return the bounds of the L + 1 tokens of a history: of the products, and of the bytes that they read.

        A step reads the LLM's weights twice for the whole batch, and each history's keys and values once forward and
        once backward.
        """
        laser = late.engine.laser
        products = 4.0 * laser.llm_block_weights * laser.num_added_tokens / self.peak
        text, length = inputs.train.text, float(inputs.train.lengths.mean())
        cached = None if text is None else text.memory
        token_bytes = 0 if cached is None else cached.nbytes / len(cached.states[0])
        weights = 2.0 * laser.llm_block_weights * self.dtype.itemsize / size
        memory = (2.0 * length * token_bytes + weights) / self.bandwidth
        bound = 1.0 / max(products, memory)
        return {
            "added_tokens": laser.num_added_tokens,
            "bound_of_products_histories_per_second": 1.0 / products,
            "bound_of_memory_histories_per_second": 1.0 / memory,
            "of_bound": per_second / bound,
        }

    def inference(self) -> dict[str, Any]:
        """Measure encoding the catalogue, exact ranks, and a validation, in the paper's placement."""
        inputs, training = self.inputs, self.job.training
        ours = Ours(self.job, inputs, self.device)
        batches = sampled_batches(inputs.items.lengths, self.job.benchmark.encode_items, self.job)
        items_IH = encode_items(ours.engine, inputs.items, training)
        generator = torch.Generator().manual_seed(0)
        users = 64 if self.small else 16_384
        target_B = torch.randint(len(inputs.items), (users,), generator=generator).to(self.device)
        vector_BH = torch.randn(users, items_IH.shape[1], generator=generator).to(self.device)

        def rank() -> None:
            catalogue_ranks(vector_BH, items_IH, target_B)
            wait(self.device)

        def validate() -> None:
            evaluate(ours.engine, inputs.val, items_IH, training, "validate")
            wait(self.device)

        encode = encoding(ours.engine, inputs.items, batches)
        timings = self.turns({"encode": encode, "rank": rank, "validate": validate})
        num_items = sum(map(len, batches))
        tokens = sum(int(inputs.items.lengths[batch].sum()) for batch in batches)
        tokens += ours.engine.laser.num_added_tokens * num_items
        work = 2.0 * ours.engine.laser.llm_block_weights * tokens
        return {
            "items_encoded_per_second": timings["encode"].per_second(num_items),
            "encode_utilisation": self.of_peak(timings["encode"].per_second(work)),
            "users_ranked_per_second": timings["rank"].per_second(users),
            "users_validated_per_second": timings["validate"].per_second(len(inputs.val)),
            "num_items": len(inputs.items),
        }
