"""The Ray that a job starts for itself."""

import subprocess
import sys

import pytest

JOINED = """
import sys
from laser.cluster.join import cluster
with cluster():
    import ray
    from ray.util.state import list_actors
    print("joined", flush=True)
    sys.stdin.readline()
    print(ray.get(ray.remote(lambda: len(list_actors())).remote()), flush=True)
"""

LISTENING = """
import psutil
from laser.cluster.join import cluster
with cluster():
    import ray
    ray.get(ray.remote(lambda: 1).remote())
    for process in psutil.Process().children(recursive=True):
        try:
            sockets = process.net_connections("tcp")
        except psutil.Error:
            continue
        for socket in sockets:
            if socket.status == psutil.CONN_LISTEN:
                print(socket.laddr.ip)
"""


@pytest.mark.ray
def test_it_listens_on_loopback_alone():
    result = subprocess.run([sys.executable, "-c", LISTENING], capture_output=True, text=True, timeout=600, check=True)
    assert set(result.stdout.split()) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert result.stdout


@pytest.mark.ray
def test_its_processes_find_it_where_another_ray_runs():
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
    assert (found, one.returncode) == ("0\n", 0)
