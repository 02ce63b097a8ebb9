"""A local cluster with worker nodes: real raylets that come and go, and nothing left of it."""

import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from laser.cluster.local import local_cluster
from laser.cluster.nodes import LocalNodes
from laser.cluster.processes import Note, marked_processes
from laser.cluster.ray_private import HEAD_NODE_ID
from laser.errors import UserError
from laser.storage.locks import held

pytestmark = pytest.mark.ray

TWO_TASKS_AT_ONCE = """
import json, ray
ray.init(log_to_driver=False)

@ray.remote(num_cpus=1)
class Meeting:  # an actor on each of two nodes, both at once
    def where(self):
        return ray.get_runtime_context().get_node_id()

before = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
actors = [Meeting.remote() for _ in range(2)]
places = ray.get([actor.where.remote() for actor in actors], timeout=300)
during = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
print(json.dumps({"before": before, "places": places, "during": during}))
"""


def test_worker_nodes_come_when_asked_for_and_leave_when_idle(tmp_path: Path):
    directory = tmp_path / "cluster"
    with local_cluster(directory, LocalNodes(max_workers=2, cpus=1, idle_seconds=2)) as cluster:
        note = Note.read(directory / "cluster.json")
        assert note is not None
        assert [node["node_id"] for node in cluster.nodes()] == [HEAD_NODE_ID]

        token = directory / "token"
        assert token.stat().st_mode & 0o777 == 0o600
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(urllib.request.Request(f"{cluster.dashboard}/api/jobs/", headers=headers))
            assert refused.value.code in (401, 403)
        with pytest.raises(UserError, match="runs a cluster from it"), local_cluster(directory):
            pass

        seen = json.loads(cluster.run_job([sys.executable, "-c", TWO_TASKS_AT_ONCE]))
        assert seen["before"] == [HEAD_NODE_ID]
        assert len(set(seen["places"])) == 2 and HEAD_NODE_ID not in seen["places"]
        assert set(seen["during"]) == {HEAD_NODE_ID, *seen["places"]}

        listening = {
            connection.laddr.ip
            for process in marked_processes(note.session)
            for connection in _sockets(process)
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}

        deadline = time.monotonic() + 120
        while len(cluster.nodes()) > 1 and time.monotonic() < deadline:
            time.sleep(0.5)
        assert [node["node_id"] for node in cluster.nodes()] == [HEAD_NODE_ID]
    assert not marked_processes(note.session)
    assert not Path(note.session).exists()
    assert sorted(path.name for path in directory.iterdir()) == ["head.log", "lock"]


def test_a_cluster_that_another_process_is_starting_is_left_alone(tmp_path: Path):
    (tmp_path / "token").write_text("theirs")
    with (
        held(tmp_path, ""),
        pytest.raises(UserError, match="another process starts a cluster"),
        local_cluster(tmp_path),
    ):
        pass
    assert (tmp_path / "token").read_text() == "theirs"


def _sockets(process: psutil.Process) -> list:
    try:
        return process.net_connections("tcp")
    except psutil.Error:  # gone meanwhile
        return []
