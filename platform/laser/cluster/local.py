"""A Ray cluster on this machine that lasts as long as a `with` block: it is started, given jobs and stopped.

The cluster runs in a session of its own, so that Ctrl-C in the terminal reaches us first. It listens on loopback
alone, on ports that nobody else uses. It takes no job without its random token.

    <directory>/
        cluster.json      who runs it
        token             the token, of mode 600; Ray finds it by RAY_AUTH_TOKEN_PATH
        environment.sh    after `. environment.sh`, `ray job submit` and `ray status` mean this cluster
        autoscaler.json   settings of the autoscaler, if there are worker nodes
        head.log          what `ray start` says
"""

import json
import logging
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laser.cli.quiet import is_noise
from laser.cluster.nodes import LocalNodes
from laser.cluster.ports import free_ports
from laser.cluster.processes import MARK, Note, stop_processes
from laser.cluster.ray_private import LOCAL_SWITCHES, START_SECONDS
from laser.errors import UserError
from laser.storage.credentials import masked
from laser.storage.locks import held

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 256 * 2**20  # trials pass a few kilobytes


@dataclass(frozen=True)
class LocalCluster:
    """A running cluster and the environment in which its commands work."""

    environment: dict[str, str]
    head: "subprocess.Popen[bytes]"

    @property
    def dashboard(self) -> str:
        """Address of the dashboard, which also takes jobs."""
        return self.environment["RAY_API_SERVER_ADDRESS"]

    @property
    def running(self) -> bool:
        return self.head.poll() is None

    def nodes(self) -> list[dict[str, Any]]:
        """List the living nodes as Ray describes them: `node_id`, `is_head_node`, `resources_total`, …

        Raises:
            OSError: the cluster does not answer.
        """
        token = Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        request = urllib.request.Request(f"{self.dashboard}/api/v0/nodes", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=10) as reply:
            nodes = json.load(reply)["data"]["result"]["result"]
        return [node for node in nodes if node["state"] == "ALIVE"]

    def num_nodes(self) -> int | None:
        """Count the living nodes, the head included; None if a busy machine's dashboard does not answer in time."""
        try:
            return len(self.nodes())
        except OSError:
            return None

    def run_job(self, command: Sequence[str]) -> str:
        """Submit a command as a Ray job, stream its output to standard error, and return its last JSON line.

        Raises:
            subprocess.CalledProcessError: the job failed; its output has been shown.
        """
        job = f"laser-{secrets.token_hex(4)}"
        submit = [_beside_python("ray"), "job", "submit", "--submission-id", job, "--", *command]
        logger.info("$ ray %s", masked(" ".join(submit[1:])))
        summary = ""
        pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "encoding": "utf-8", "errors": "replace"}
        with subprocess.Popen(submit, env=self.environment, **pipe) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    if line.startswith("{") and _is_json(line):
                        summary = line.strip()
                    elif not is_noise(line):
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
def local_cluster(directory: Path, nodes: LocalNodes | None = None) -> Iterator[LocalCluster]:
    """Start a cluster on this machine, and stop it after the block, an error or Ctrl-C.

    Args:
        directory: holds the cluster's token, environment and note while it runs.
        nodes: worker nodes that come and go as they are asked for; with None, the head offers all cores.

    Raises:
        UserError: a cluster runs from this directory already.
        RuntimeError: Ray does not start; the message holds what Ray said.
    """
    _refuse_running(directory)
    with held(directory, "starts a cluster from it"), _started(directory, nodes) as cluster:
        yield cluster


@contextmanager
def _started(directory: Path, nodes: LocalNodes | None) -> Iterator[LocalCluster]:
    _clean_up(directory)
    session = Path(tempfile.mkdtemp(prefix="laser-", dir="/tmp"))  # sockets need a path below 107 characters
    ports = free_ports(5)
    gcs_address = f"127.0.0.1:{ports[0]}"
    environment = _environment(_write_token(directory), f"http://127.0.0.1:{ports[1]}", gcs_address)
    options: dict[str, Any] = {
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
        "temp-dir": session,
    }
    of_start = {**environment, MARK: str(session)}
    del of_start["RAY_ADDRESS"]  # a head joins no cluster
    if nodes is not None:
        options |= nodes.options(gcs_address, directory)
        of_start |= nodes.environment()
    command = [_beside_python("ray"), "start", "--head", "--block", *(f"--{k}={v}" for k, v in options.items())]
    log = directory / "head.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=of_start, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    note = Note.write(directory / "cluster.json", process.pid, session)
    try:
        _wait_until_ready(process, ports[1], log)
        _write_environment(directory / "environment.sh", environment)
        yield LocalCluster(environment, process)
    finally:
        _stop(note, directory)
        process.wait()


def stop_local_cluster(directory: Path) -> bool:
    """Stop the cluster of this directory, or what a killed one left behind; return whether there was any."""
    note = Note.read(directory / "cluster.json")
    if note is None:
        return False
    owner = note.owner_process()
    if owner is not None:
        owner.send_signal(signal.SIGTERM)  # the owner stops what it started
        owner.wait(timeout=START_SECONDS)
    _stop(note, directory)
    return True


def _refuse_running(directory: Path) -> None:
    note = Note.read(directory / "cluster.json")
    if note is not None and note.owner_process() is not None:
        raise UserError(
            f"{directory}: process {note.owner} runs a cluster from it; stop it with Ctrl-C or kill {note.owner}"
        )


def _clean_up(directory: Path) -> None:
    """Stop a cluster whose owner was killed before it could stop it."""
    note = Note.read(directory / "cluster.json")
    if note is not None:
        logger.info("stopping the processes that a killed cluster left behind")
        _stop(note, directory)


def _stop(note: Note, directory: Path) -> None:
    stop_processes(note)
    shutil.rmtree(note.session, ignore_errors=True)
    for name in ("token", "environment.sh", "autoscaler.json", "cluster.json"):  # the note goes last
        (directory / name).unlink(missing_ok=True)


def _environment(token: Path, dashboard: str, gcs_address: str) -> dict[str, str]:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "RAY_ADDRESS": gcs_address,
        "RAY_API_SERVER_ADDRESS": dashboard,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        **LOCAL_SWITCHES,
    }
    environment.pop("RAY_AUTH_TOKEN", None)  # Ray would prefer it to the file
    return environment


def _write_token(directory: Path) -> Path:
    path = (directory / "token").absolute()
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    return path


def _write_environment(path: Path, environment: dict[str, str]) -> None:
    changed = {name: value for name, value in environment.items() if os.environ.get(name) != value or "RAY_" in name}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(changed.items())]
    text = "\n".join([*lines, "unset RAY_AUTH_TOKEN", ""])
    path.write_text(text, encoding="utf-8", errors="surrogateescape")


def _wait_until_ready(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    def said() -> str:
        return log.read_text(encoding="utf-8", errors="replace")

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"ray start ended with status {process.returncode}:\n{said()}")
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0 and "Ray runtime started" in said():
                return
        time.sleep(0.5)
    raise RuntimeError(f"ray start was not ready after {START_SECONDS} s:\n{said()}")


def _beside_python(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
