"""A Ray cluster of one node for as long as a `with` block lasts: started, given jobs, and stopped, it alone.

It runs in a session of its own, so that Ctrl-C in the terminal reaches us first; it listens on ports that nobody else
uses, takes no job without its own random token, and keeps its files in a directory of its own.
"""

import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

logger = logging.getLogger(__name__)

START_SECONDS = 120
STOP_SECONDS = 20
OBJECT_STORE_BYTES = 256 * 2**20  # trials pass a few kilobytes


@dataclass(frozen=True)
class LocalCluster:
    """A running cluster and the environment in which its commands work."""

    environment: dict[str, str]

    def run_job(self, command: Sequence[str]) -> str:
        """Submit a command as a Ray job, stream its output to standard error, and return its last JSON line.

        Raises:
            subprocess.CalledProcessError: the job failed; what it said has been shown.
        """
        job = f"laser-{secrets.token_hex(4)}"
        submit = [_beside_python("ray"), "job", "submit", "--submission-id", job, "--", *command]
        logger.info("$ ray %s", " ".join(submit[1:]))
        summary = ""
        with subprocess.Popen(submit, env=self.environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    if line.startswith("{") and _is_json(line):
                        summary = line.strip()
                    else:
                        print(line, end="", file=sys.stderr, flush=True)
            except BaseException:
                process.terminate()
                stop = [_beside_python("ray"), "job", "stop", job]
                subprocess.run(stop, env=self.environment, capture_output=True, check=False)
                raise
        if process.returncode or not summary:
            raise subprocess.CalledProcessError(process.returncode or 1, submit)
        return summary


@contextmanager
def local_cluster(note: Path) -> Iterator[LocalCluster]:
    """Start a cluster on this machine, and stop it at the end, also after an error or Ctrl-C.

    Args:
        note: file that says what runs, so that the next call can stop what a killed one left.

    Raises:
        RuntimeError: Ray does not start; the message holds what it said.
    """
    _stop_leftover(note)
    directory = Path(tempfile.mkdtemp(prefix="laser-", dir="/tmp"))  # sockets need a path below 107 characters
    log = directory / "start.log"
    ports = _free_ports(5)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{ports[1]}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    environment.pop("RAY_ADDRESS", None)
    options = {
        "port": ports[0],
        "dashboard-host": "127.0.0.1",
        "dashboard-port": ports[1],
        "dashboard-agent-listen-port": ports[2],
        "ray-client-server-port": ports[3],
        "metrics-export-port": ports[4],
        "min-worker-port": 0,
        "max-worker-port": 0,
        "num-cpus": max(2, os.cpu_count() or 1),
        "object-store-memory": OBJECT_STORE_BYTES,
        "temp-dir": directory,
    }
    command = [
        _beside_python("ray"),
        "start",
        "--head",
        "--block",
        *(f"--{key}={value}" for key, value in options.items()),
    ]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    head = psutil.Process(process.pid)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({"pid": head.pid, "created": head.create_time(), "directory": str(directory)}))
    try:
        _wait_until_ready(process, ports[1], log)
        yield LocalCluster(environment)
    finally:
        stop_tree(head)
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)
        note.unlink(missing_ok=True)


def stop_tree(head: psutil.Process) -> None:
    """End a process and all that it started: politely, then by force."""
    try:
        processes = [head, *head.children(recursive=True)]
        head.send_signal(signal.SIGTERM)
    except psutil.NoSuchProcess:
        return
    _, alive = psutil.wait_procs(processes, timeout=STOP_SECONDS)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass
    psutil.wait_procs(alive, timeout=STOP_SECONDS)


def _stop_leftover(note: Path) -> None:
    """Stop the cluster of an earlier call that was killed before it could."""
    if not note.is_file():
        return
    left = json.loads(note.read_text())
    try:
        head = psutil.Process(left["pid"])
        if head.create_time() == left["created"]:  # else the number went to a stranger
            logger.info("stopping the Ray head that an interrupted run left behind")
            stop_tree(head)
    except psutil.NoSuchProcess:
        pass
    shutil.rmtree(left["directory"], ignore_errors=True)
    note.unlink(missing_ok=True)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"ray start ended with status {process.returncode}:\n{log.read_text()}")
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0 and "Ray runtime started" in log.read_text():
                return
        time.sleep(0.5)
    raise RuntimeError(f"ray start was not ready after {START_SECONDS} s:\n{log.read_text()}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _beside_python(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
