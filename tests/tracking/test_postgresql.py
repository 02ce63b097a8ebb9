"""A new PostgreSQL database that several processes open at once, on a real server."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from laser.cluster.ports import free_ports

PROGRAMS = Path(shutil.which("initdb") or next(iter(Path("/usr/lib/postgresql").glob("*/bin/initdb")), "")).parent
ACCOUNT = "postgres" if os.geteuid() == 0 else None
"""PostgreSQL refuses to run as root."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Start a server on loopback, without a password, and yield the address of it without a database."""
    pytest.importorskip("psycopg2", reason="PostgreSQL's driver psycopg2 is not installed")
    if not (PROGRAMS / "pg_ctl").exists():
        pytest.skip("no PostgreSQL server is installed (initdb, pg_ctl)")
    folder = Path(tempfile.mkdtemp(prefix="laser-postgresql-"))
    if ACCOUNT:
        shutil.chown(folder, ACCOUNT)
    (port,) = free_ports(1)

    def call(program: str, *words: str) -> None:
        command = [str(PROGRAMS / program), "-D", str(folder / "data"), *words]
        subprocess.run(command, check=True, user=ACCOUNT, cwd=folder, stdout=subprocess.DEVNULL)

    try:
        call("initdb", "-U", "laser", "-A", "trust")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        call("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg2://laser@127.0.0.1:{port}"
        finally:
            call("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def test_processes_that_start_at_once_share_a_new_database(server, runs_at_once, tmp_path, monkeypatch):
    from sqlalchemy import create_engine, text

    monkeypatch.chdir(tmp_path)
    for attempt in range(3):
        engine = create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE attempt{attempt}"))
        engine.dispose()
        runs = runs_at_once(f"{server}/attempt{attempt}", "new")
        client = MlflowClient(f"{server}/attempt{attempt}")
        (experiment,) = (each for each in client.search_experiments() if each.name == "new")
        assert {run.info.run_id for run in client.search_runs([experiment.experiment_id])} == runs
        assert len(runs) == 2
