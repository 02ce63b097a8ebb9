"""The processes of a local cluster: noted on disk, told from everybody else's, and ended.

No process is ended by its name. A cluster's processes are the head's descendants, and those that carry the cluster's
mark in their environment. The mark is needed because worker nodes and jobs outlive a head that was killed.
"""

import json
import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

MARK = "LASER_LOCAL_CLUSTER"
"""Environment variable that all processes of a cluster carry; its value is the cluster's session directory."""
STOP_SECONDS = 20
"""Seconds from SIGTERM to SIGKILL."""


@dataclass(frozen=True)
class Note:
    """Who runs a cluster, as noted on disk. Process ids are used again, so the note has their start times too."""

    owner: int
    owner_created: float
    head: int
    head_created: float
    session: str

    @classmethod
    def read(cls, path: Path) -> "Note | None":
        return cls(**json.loads(path.read_text())) if path.is_file() else None

    @classmethod
    def write(cls, path: Path, head: int, session: Path) -> "Note":
        """Note that this process owns the head and its session directory."""
        note = cls(os.getpid(), psutil.Process().create_time(), head, psutil.Process(head).create_time(), str(session))
        path.write_text(json.dumps(asdict(note), indent=1) + "\n")
        return note

    def owner_process(self) -> psutil.Process | None:
        """The process that started the cluster, if it still runs."""
        return _process(self.owner, self.owner_created)

    def head_process(self) -> psutil.Process | None:
        """Ray's head, if it still runs."""
        return _process(self.head, self.head_created)


def stop_processes(note: Note) -> None:
    """End the head, its descendants and all marked processes: first by SIGTERM, then by SIGKILL."""
    head = note.head_process()
    processes = _descendants(head) if head is not None else []
    if head is not None:
        _signal(head, signal.SIGTERM)  # Ray ends what it has started
        psutil.wait_procs([head], timeout=STOP_SECONDS)
    processes += [process for process in marked_processes(note.session) if process not in processes]
    for process in processes:
        _signal(process, signal.SIGTERM)  # without it, worker nodes wait a minute for a head that is gone
    _, alive = psutil.wait_procs([*processes, *([head] if head is not None else [])], timeout=STOP_SECONDS)
    for process in alive:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=STOP_SECONDS)


def marked_processes(session: str) -> list[psutil.Process]:
    """List all processes that carry this cluster's mark, except this process."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == session and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:  # gone meanwhile, or another account's
            continue
    return found


def _process(pid: int, created: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        return process if process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass
