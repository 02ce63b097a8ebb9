"""Worker nodes on this machine, which Ray's own autoscaler starts and ends as trials ask for them.

Each node is a raylet of its own. It comes from the provider that Ray tests its autoscaler with (`fake_multinode`). The
wheel lacks one of that provider's files, an `example.yaml` with defaults. So the provider is named by its class, as an
`external` one, which needs no defaults.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laser.cluster.ray_private import FAKE_NODES_PROVIDER, FAKE_NODES_SWITCHES, HEAD_NODE_ID, HEAD_TYPE

HEAD_RESOURCE = "head"
"""Custom resource that the head alone offers, for `search.driver_resource`."""
OBJECT_STORE_BYTES = 128 * 2**20  # trials pass a few kilobytes


@dataclass(frozen=True)
class LocalNodes:
    """Which worker nodes a local cluster may start."""

    max_workers: int
    """Most worker nodes at once; a node starts when it is asked for."""
    cpus: int
    """Cores that each node offers; all nodes share what the machine has."""
    idle_seconds: float
    """Seconds after which a node without work leaves."""

    def environment(self) -> dict[str, str]:
        """What `ray start` needs in its environment."""
        # Ray Train would give up the places of its workers after a minute.
        return {**FAKE_NODES_SWITCHES, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600"}

    def options(self, gcs_address: str, directory: Path) -> dict[str, Any]:
        """Options of `ray start` for a head on which nothing trains; writes the autoscaler's settings into a file."""
        path = directory / "autoscaler.json"
        path.write_text(json.dumps(self._settings(gcs_address), indent=1))
        return {"num-cpus": 0, "resources": json.dumps({HEAD_RESOURCE: 1}), "autoscaling-config": path}

    def _settings(self, gcs_address: str) -> dict[str, Any]:
        provider = {
            "type": "external",
            "module": FAKE_NODES_PROVIDER,
            "gcs_address": gcs_address,
            "head_node_id": HEAD_NODE_ID,
            "launch_multiple": True,
            "disable_node_updaters": True,  # they would reach the nodes by SSH
            "disable_launch_config_check": True,
        }
        head = {"resources": {"CPU": 0, HEAD_RESOURCE: 1}, "node_config": {}, "min_workers": 0, "max_workers": 0}
        worker = {
            "resources": {"CPU": self.cpus, "object_store_memory": OBJECT_STORE_BYTES},
            "node_config": {},
            "min_workers": 0,
            "max_workers": self.max_workers,
        }
        return {
            "cluster_name": "laser-local",
            "max_workers": self.max_workers,
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": self.idle_seconds / 60,
            "provider": provider,
            "auth": {"ssh_user": "nobody"},
            "head_node_type": HEAD_TYPE,
            "available_node_types": {HEAD_TYPE: head, "worker": worker},
            # Nothing is installed or synchronised, but Ray looks up each of these.
            "docker": {},
            "file_mounts": {},
            "cluster_synced_files": [],
            "file_mounts_sync_continuously": False,
            "rsync_exclude": [],
            "rsync_filter": [],
            "initialization_commands": [],
            "setup_commands": [],
            "head_setup_commands": [],
            "worker_setup_commands": [],
            "head_start_ray_commands": [],
            "worker_start_ray_commands": [],
        }
