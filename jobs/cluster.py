"""Run a Ray cluster on this machine that adds and removes worker nodes as trials need them; Ctrl-C stops it.

Nothing trains on the head. So a search starts the worker nodes that it needs, and they leave when they are idle, as
under cluster.yaml on AWS. Here each node is a group of processes. While the cluster runs, use another terminal:

    . runs/cluster/environment.sh
    ray job submit -- python jobs/tune.py search.driver_resource=head search.max_concurrent_trials=2
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laser.cli.job import run_job
from laser.config.jobs import ClusterJob

logger = logging.getLogger("cluster")


def main(config: ClusterJob) -> Mapping[str, Any]:
    """Run the cluster until it is interrupted. The summary holds the most nodes that were alive at once."""
    from laser.cluster.local import local_cluster, stop_local_cluster
    from laser.cluster.nodes import LocalNodes
    from laser.storage.places import check_place

    directory = Path(config.directory).absolute()
    if config.stop:
        return {"stopped": stop_local_cluster(directory)}
    check_place(directory, "directory")
    nodes, most = LocalNodes(config.max_workers, config.cpus_per_worker, config.idle_seconds), 0
    with local_cluster(directory, nodes) as cluster:
        logger.info("one head, up to %d worker nodes; dashboard %s", config.max_workers, cluster.dashboard)
        logger.info("to use it in another terminal: . %s; Ctrl-C stops it", directory / "environment.sh")
        try:
            last = 0
            while cluster.running:
                alive = cluster.num_nodes() or last
                if alive != last:
                    logger.info("nodes: %d", alive)
                last, most = alive, max(most, alive)
                time.sleep(1)
        except KeyboardInterrupt:
            return {"stopped": True, "most_nodes": most}
    raise RuntimeError(f"the head ended by itself; its log is {directory / 'head.log'}")


if __name__ == "__main__":
    run_job(main, ClusterJob)
