"""Lists by the workers of Ray Data: each holds the model, and takes a batch after another."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import ray
from ray.data import DataContext, from_arrow

from laser.serving.lists import Answering, Work


class _Worker:
    """Answers batches in a process of its own."""

    def __init__(self, work: Work) -> None:
        self.answer = work.open()

    def __call__(self, batch: pa.Table) -> pa.Table:
        return self.answer(batch)


def answered_on_ray(work: Work, num_workers: int | None, cpus_per_worker: int) -> Answering:
    """Answer on the cluster that this process has joined (`laser.cluster.join`).

    Args:
        work: what a worker needs; package and cache lie on storage that all nodes share.
        num_workers: most workers; None for as many as the cluster's CPUs take.
        cpus_per_worker: CPUs of each.
    """

    def answer(batches: Sequence[pa.Table]) -> Iterator[pa.Table]:
        room = int(ray.cluster_resources().get("CPU", 1)) // cpus_per_worker
        size = max(1, min(num_workers or room, len(batches)))
        context = DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        answered = from_arrow(list(batches)).map_batches(
            _Worker,
            fn_constructor_args=(work,),
            batch_size=None,  # a block is a batch, so results do not depend on where they are answered
            batch_format="pyarrow",
            zero_copy_batch=True,
            concurrency=size,
            num_cpus=cpus_per_worker,
            num_gpus=int(work.use_gpu),
        )
        yield from answered.iter_batches(batch_size=None, batch_format="pyarrow")

    return answer
