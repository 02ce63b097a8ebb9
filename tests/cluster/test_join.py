"""The Ray that a job starts for itself."""

import subprocess
import sys

import pytest

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
