"""Suite serve: latency and requests per second of the HTTP application on loopback, by the number of clients.

The model is the experiment's, untrained: speed does not depend on what the weights hold. Each client asks for one
history of a test user after another over one connection, and the next once it has its answer. Server and clients
share the machine. With `prompt.item_attention=own`, texts come from the text cache, and a history costs its virtual
tokens alone. With `recommender.type=collective_sasrec` it is that recommender, without Laser and HTTP, from its caches.
"""

import json
import time
from pathlib import Path

from laser.benchmarks.contestants.caches import cached_requests
from laser.benchmarks.suites import BenchmarkResult
from laser.cluster.ports import free_ports
from laser.config.compose import with_overrides
from laser.config.identity import as_experiment
from laser.config.jobs import BenchmarkJob, ServeJob
from laser.config.paths import with_absolute_paths
from laser.serving.fresh import train_and_package
from laser.serving.http.load import Load, row
from laser.serving.lists import dataset_histories
from laser.sources.prepare import prepare_dataset

UNTRAINED = {
    "training.stage0_epochs": 0, "training.stage1_epochs": 0, "training.stage2_epochs": 0, "training.test": False,
    "training.num_workers": 0, "training.validation_users": 16, "training.train_users": 64, "warm_start.epochs": 0,
}  # fmt: skip
WARMUP_SECONDS = 2.0
K = 10


def run(job: BenchmarkJob) -> BenchmarkResult:
    """Start the application, and load it with each number of clients in turn."""
    if job.recommender.type == "collective_sasrec":
        return cached_requests(job)
    from laser.cluster.join import cluster
    from laser.serving.http.running import application_of, serving

    config = with_overrides(with_absolute_paths(as_experiment(job)), UNTRAINED)
    _, package = train_and_package(config)
    histories = list(dataset_histories(prepare_dataset(config.data, Path(config.cache_dir)), "test").values())
    bodies = [json.dumps({"histories": [history], "k": K}).encode() for history in histories]
    [port] = free_ports(1)
    settings = ServeJob(
        model=str(package.folder), port=port, token_file=None, cache_dir=config.cache_dir,
        max_batch_size=job.benchmark.serve_batch_size, cpus_per_replica=0.5,
    )  # fmt: skip
    rows = []
    with cluster(), serving(settings, application_of(settings)):
        for num_clients in job.benchmark.serve_clients:
            Load(port, bodies, time.perf_counter() + WARMUP_SECONDS).run(num_clients)
            started = time.perf_counter()
            load = Load(port, bodies, started + job.benchmark.serve_seconds)
            load.run(num_clients)
            rows.append(row(num_clients, load.seconds, time.perf_counter() - started))
    return BenchmarkResult({f"{line['clients']}_clients": line for line in rows}, rows)
