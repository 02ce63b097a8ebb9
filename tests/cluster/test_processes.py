"""Which processes belong to a cluster, and how they are ended."""

import os
import subprocess
from pathlib import Path

from laser.cluster.processes import MARK, Note, marked_processes, stop_processes


def test_the_head_and_marked_processes_are_ended_and_no_others(tmp_path: Path):
    session = tmp_path / "session"
    sleep = ["sleep", "600"]
    head = subprocess.Popen(sleep)
    marked = subprocess.Popen(sleep, env={**os.environ, MARK: str(session)})
    stranger = subprocess.Popen(sleep, env={**os.environ, MARK: str(tmp_path / "another")})
    try:
        note = Note.write(tmp_path / "cluster.json", head.pid, session)
        assert Note.read(tmp_path / "cluster.json") == note
        assert [process.pid for process in marked_processes(note.session)] == [marked.pid]
        stop_processes(note)
        assert head.poll() is not None and marked.poll() is not None
        assert stranger.poll() is None
    finally:
        for process in (head, marked, stranger):
            process.kill()
            process.wait()


def test_a_process_that_took_the_heads_number_is_left_alone(tmp_path: Path):
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        note = Note(owner=0, owner_created=0.0, head=stranger.pid, head_created=1.0, session=str(tmp_path))
        stop_processes(note)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
