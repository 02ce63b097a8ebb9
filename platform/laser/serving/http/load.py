"""Clients that load the server and time its answers, as `jobs/benchmark.py suite=serve` needs them."""

import http.client
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Load:
    """Clients that ask until a moment, and the seconds that each answer took."""

    port: int
    bodies: Sequence[bytes]
    ends: float
    seconds: list[float] = field(default_factory=list)

    def run(self, num_clients: int) -> None:
        """Ask by so many clients at once."""
        failures: list[BaseException] = []

        def client(number: int) -> None:
            try:
                self._ask(number, num_clients)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(num_clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def _ask(self, number: int, num_clients: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Content-Type": "application/json"}
        while time.perf_counter() < self.ends:
            started = time.perf_counter()
            connection.request("POST", "/recommend", self.bodies[number % len(self.bodies)], headers)
            response = connection.getresponse()
            content = response.read()
            self.seconds.append(time.perf_counter() - started)
            if response.status != 200:
                raise RuntimeError(f"status {response.status}: {content[:500]!r}")
            number += num_clients
        connection.close()


def row(num_clients: int, seconds: Sequence[float], elapsed: float) -> dict[str, float]:
    """Return the figures of one number of clients: latencies in ms, and requests per second."""
    p50, p99 = np.percentile(seconds, [50, 99])
    return {
        "clients": num_clients,
        "requests": len(seconds),
        "p50_ms": round(1000 * float(p50), 2),
        "p99_ms": round(1000 * float(p99), 2),
        "requests_per_second": round(len(seconds) / elapsed, 1),
    }
