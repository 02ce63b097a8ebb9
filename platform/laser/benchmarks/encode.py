"""Suite encode: items encoded per second, as at the start of each epoch, beside `transformers` over padded batches.

Ours sorts the catalogue by length, fills batches by tokens, and runs the LLM packed. A round takes some of these
batches, evenly from the longest to the shortest. The peer runs the same Laser with `transformers`' own decoder. It
takes the same items in the order of the catalogue, in batches of fixed size, padded to their longest item. `late` is
ours with the prefix after the text, whose keys and values are cached. It takes `LATE_ITEMS` times the items a round, so
that it is busy for about as long; its ratio is of tokens per second. A token counts whether the LLM runs it or a cache
holds it; padding does not.
"""

from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray

from laser.benchmarks.measure import Work, matrix_product, ratio, take_turns, wait
from laser.benchmarks.suites import BenchmarkResult
from laser.benchmarks.train import LATE
from laser.config.compose import with_overrides
from laser.config.jobs import BenchmarkJob
from laser.data.batches import inference_batches
from laser.engine.histories import Histories
from laser.engine.plain import PlainEngine
from laser.llm.loading import choose_dtype
from laser.training.inputs import Inputs
from laser.training.model import whole_laser
from laser.training.prepare import prepare_inputs

PEER_BATCH = 32
LATE_ITEMS = 8
"""Times `benchmark.encode_items` that a late prefix encodes in a round."""


def run(job: BenchmarkJob) -> BenchmarkResult:
    """Encode a sample of the catalogue, both ways in turn."""
    device = torch.device("cuda" if job.training.use_gpu else "cpu")
    inputs = prepare_inputs(job)
    items = inputs.items
    by_length = sampled_batches(items.lengths, job.benchmark.encode_items, job)
    sample = np.sort(np.concatenate(by_length))

    def engine(job: BenchmarkJob, inputs: Inputs) -> PlainEngine:
        return PlainEngine(whole_laser(job, inputs.artifacts, device), job.training, device)

    ours = engine(job, inputs)
    peer = engine(with_overrides(job, {"llm.implementation": "transformers"}), inputs)
    late_job = with_overrides(job, LATE)
    late_inputs = prepare_inputs(late_job)
    late = engine(late_job, late_inputs)
    added = late.laser.num_added_tokens
    late_batches = sampled_batches(late_inputs.items.costs(added), LATE_ITEMS * job.benchmark.encode_items, job)
    in_order = [sample[start : start + PEER_BATCH] for start in range(0, len(sample), PEER_BATCH)]
    multiply, multiplied = matrix_product(choose_dtype(job.llm.dtype, device), device)
    contestants = {
        "peak": multiply,
        "ours": encoding(ours, items, by_length),
        "late": encoding(late, late_inputs.items, late_batches),
        "transformers": encoding(peer, items, in_order),
    }
    timings = take_turns(contestants, job.benchmark.rounds, job.benchmark.warmup_rounds)
    peak = timings["peak"].per_second(multiplied)
    operations = 2.0 * late.laser.llm_block_weights  # a token
    samples = {"ours": sample, "late": np.concatenate(late_batches), "transformers": sample}
    sizes = {name: len(chosen) for name, chosen in samples.items()}
    tokens = {name: int(items.lengths[chosen].sum()) + added * len(chosen) for name, chosen in samples.items()}
    run_tokens = tokens | {"late": added * sizes["late"]}
    utilisation = {name: timings[name].per_second(operations * run_tokens[name]) / peak for name in samples}
    figures = {
        "items": sizes,
        "items_per_second": {name: timings[name].per_second(sizes[name]) for name in samples},
        "tokens_per_second": {name: timings[name].per_second(tokens[name]) for name in samples},
        "utilisation": {name: round(value, 4) for name, value in utilisation.items()},
        "speedup_over_transformers": ratio(timings["transformers"], timings["ours"]),
        "late_over_before": ratio(timings["ours"], timings["late"], tokens["late"] / tokens["ours"]),
        "bound": round(tokens["late"] / run_tokens["late"], 2),
        "seconds": {name: timing.as_figures() for name, timing in timings.items()},
        "peak_gflops": round(peak / 1e9, 1),
        "tokens_per_item": round(tokens["ours"] / sizes["ours"], 1),
    }
    rows = [
        {
            "contestant": name,
            "seconds": timings[name].median,
            "items/s": timings[name].per_second(sizes[name]),
            "tokens/s": timings[name].per_second(tokens[name]),
            "of peak, 2 N a token run": utilisation[name],
        }
        for name in samples
    ]
    return BenchmarkResult(figures, rows)


def sampled_batches(costs: NDArray[np.int64], wanted: int, job: BenchmarkJob) -> list[NDArray[np.int64]]:
    """Return batches of the catalogue with so many items or a few more, from long to short; `costs` are in tokens."""
    every = inference_batches(costs, job.training.inference_batch_tokens)
    count = min(len(every), ceil(wanted * len(every) / len(costs)))
    return [every[int(number)] for number in np.linspace(0, len(every) - 1, count)]


def encoding(engine: PlainEngine, items: Histories, batches: list[NDArray[np.int64]]) -> Work:
    """Return a pass over batches of items without gradient, which also assembles the batches."""

    def encode() -> None:
        engine.laser.eval()
        with torch.no_grad(), items.batches(batches, engine.device) as made:
            for batch in made:
                engine.forward(batch)
        wait(engine.device)

    return encode
