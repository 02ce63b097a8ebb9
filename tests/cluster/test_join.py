"""The Ray that a job starts for itself."""

import subprocess
import sys

import pytest

JOINED = """
import sys
import psutil
from laser.cluster.join import cluster

def listening():
    for process in psutil.Process().children(recursive=True):
        try:
            sockets = process.net_connections("tcp")
        except psutil.Error:
            continue
        yield from (socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN)

with cluster():
    import ray
    from ray.util.state import list_actors
    print("joined", flush=True)
    sys.stdin.readline()
    print(ray.get(ray.remote(lambda: len(list_actors())).remote()), *listening(), flush=True)
"""


@pytest.mark.ray
def test_it_listens_on_loopback_alone_and_its_processes_find_it_where_another_ray_runs():
    """As Ray Train's helper does that gives the CPUs of a killed trial back."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        subprocess.Popen([sys.executable, "-c", JOINED], **pipes) as one,
        subprocess.Popen([sys.executable, "-c", JOINED], **pipes) as other,
    ):
        for process in (one, other):
            assert process.stdout.readline() == "joined\n"
        found, _ = one.communicate("\n", timeout=300)
        other.communicate("\n", timeout=300)
    actors, *addresses = found.split()
    assert (actors, one.returncode) == ("0", 0)
    assert addresses and set(addresses) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
