"""What a node is busy with, by the names of MLflow's system metrics: cores, memory, disk, network, GPU.

A process of the node samples them, and hands their means on with what it reports anyway. So they reach a store that the
node itself does not reach, such as a file beside the driver.
"""

import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import Event, Lock, Thread
from typing import Any

try:
    import psutil
except ModuleNotFoundError:  # a machine with torch and transformers alone: its runs have no figures of the node
    psutil = None

PREFIX = "system/"
"""Names that begin so are shown apart by MLflow."""
SAMPLE_SECONDS = 5.0
MIB = 2**20


class NodeFigures:
    """Samples this node until it is closed, and gives the means since they were last asked for."""

    def __init__(self, name: str | None = None, sample_seconds: float = SAMPLE_SECONDS) -> None:
        self.name, self.sample_seconds = name or socket.gethostname(), sample_seconds
        self._sums: dict[str, float] = {}
        self._num_samples = 0
        self._lock, self._closed = Lock(), Event()
        self._traffic = _traffic()
        self._since = time.monotonic()
        self._thread = Thread(target=self._run, name="node-figures", daemon=True)
        self._thread.start()

    def take(self) -> dict[str, float]:
        """Return `system/<node>/<figure>` → mean since the last call; traffic in MB a second."""
        with self._lock:
            if not self._num_samples:
                self._sample()
            figures = {name: total / self._num_samples for name, total in self._sums.items()}
            self._sums, self._num_samples = {}, 0
            now, traffic = time.monotonic(), _traffic()
            seconds = max(now - self._since, 1e-3)
            for name, size in traffic.items():
                figures[name] = (size - self._traffic[name]) / MIB / seconds
            self._since, self._traffic = now, traffic
        return {f"{PREFIX}{self.name}/{name}": value for name, value in figures.items()}

    def close(self) -> None:
        """End the sampling."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(self.sample_seconds):
            with self._lock:
                self._sample()

    def _sample(self) -> None:
        self._num_samples += 1
        if psutil is None:
            return
        memory = psutil.virtual_memory()
        sample = {
            "cpu_utilization_percentage": psutil.cpu_percent(),  # since the last sample
            "system_memory_usage_megabytes": memory.used / MIB,
            "system_memory_usage_percentage": memory.percent,
            "disk_usage_percentage": psutil.disk_usage(".").percent,
            **_gpus(),
        }
        for name, value in sample.items():
            self._sums[name] = self._sums.get(name, 0.0) + value


@contextmanager
def node_figures(name: str | None = None) -> Iterator[NodeFigures]:
    """Sample this node within the block."""
    figures = NodeFigures(name)
    try:
        yield figures
    finally:
        figures.close()


def of_nodes(reports: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the reports of several processes say of their nodes; of one node, what the first one says."""
    figures: dict[str, Any] = {}
    for report in reports:
        for name, value in report.items():
            if name.startswith(PREFIX):
                figures.setdefault(name, value)
    return figures


def _traffic() -> dict[str, int]:
    counters = None if psutil is None else psutil.net_io_counters()
    if counters is None:  # a container without network devices
        return {}
    return {"network_receive_megabytes": counters.bytes_recv, "network_transmit_megabytes": counters.bytes_sent}


def _gpus() -> dict[str, float]:
    """Return memory, and load where NVIDIA's library tells it, of each GPU that this process sees."""
    torch = sys.modules.get("torch")  # a process without torch runs nothing on a GPU
    found: dict[str, float] = {}
    if torch is None or not torch.cuda.is_initialized():
        return found
    for index in range(torch.cuda.device_count()):
        free, whole = torch.cuda.mem_get_info(index)
        found[f"gpu_{index}_memory_usage_megabytes"] = (whole - free) / MIB
        found[f"gpu_{index}_memory_usage_percentage"] = 100 * (whole - free) / whole
        try:
            found[f"gpu_{index}_utilization_percentage"] = float(torch.cuda.utilization(index))
        except (ModuleNotFoundError, RuntimeError):  # nvidia-ml-py is not there, or may not ask the driver
            continue
    return found
