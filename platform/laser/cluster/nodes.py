"""Worker nodes on this machine, started and ended by Ray's own autoscaler as trials ask for them.

Each is a raylet of its own, by Ray's provider for tests of its autoscaler (`fake_multinode`). Its files in the wheel
are incomplete: the autoscaler looks for an `example.yaml` with defaults that is not there. Named as an `external`
provider, by its class, it needs none. The autoscaler is Ray's second: with the first, nodes did not leave.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEAD_RESOURCE = "head"
"""Custom resource of the head alone, for `search.driver_resource`."""
HEAD_NODE_ID = "f" * 51 + "00000"
"""Node id of the head; Ray's provider counts its nodes on from there."""
HEAD_TYPE = "ray.head.default"  # the provider insists on the name
OBJECT_STORE_BYTES = 128 * 2**20  # trials pass a few kilobytes


@dataclass(frozen=True)
class LocalNodes:
    """Which worker nodes a local cluster may start."""

    max_workers: int
    """Most worker nodes at once; none run before they are asked for."""
    cpus: int
    """Cores that each of them offers; what the machine has is shared by all."""
    idle_seconds: float
    """A node without work leaves after so many seconds."""

    def environment(self) -> dict[str, str]:
        """What `ray start` needs in its environment."""
        return {
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_NODE_ID,
            "RAY_NODE_TYPE_NAME": HEAD_TYPE,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # else Ray Train gives its places back after a minute
        }

    def options(self, gcs_address: str, directory: Path) -> dict[str, Any]:
        """Options of `ray start` for a head on which nothing trains; the autoscaler's settings go into a file there."""
        path = directory / "autoscaler.json"
        path.write_text(json.dumps(self._settings(gcs_address), indent=1))
        return {"num-cpus": 0, "resources": json.dumps({HEAD_RESOURCE: 1}), "autoscaling-config": path}

    def _settings(self, gcs_address: str) -> dict[str, Any]:
        provider = {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": gcs_address,
            "head_node_id": HEAD_NODE_ID,
            "launch_multiple": True,
            "disable_node_updaters": True,  # else it would go there by SSH
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
            # Nothing is installed or synchronised, but Ray looks each of them up.
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
