"""A new database of a server that several processes open at once, on real PostgreSQL and MariaDB servers."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from laser.cluster.ports import free_ports

POSTGRESQL = Path(shutil.which("initdb") or next(iter(Path("/usr/lib/postgresql").glob("*/bin/initdb")), "")).parent
MARIADB = shutil.which("mariadbd") or "/usr/sbin/mariadbd"
ACCOUNT = "postgres" if os.geteuid() == 0 else None
"""PostgreSQL refuses to run as root."""


@contextmanager
def postgresql(folder: Path, port: int) -> Iterator[str]:
    """Run a server on loopback, without a password, and yield the address of it without a database."""
    pytest.importorskip("psycopg2", reason="PostgreSQL's driver psycopg2 is not installed")
    if not (POSTGRESQL / "pg_ctl").exists():
        pytest.skip("no PostgreSQL server is installed (initdb, pg_ctl)")
    if ACCOUNT:
        shutil.chown(folder, ACCOUNT)

    def call(program: str, *words: str) -> None:
        command = [str(POSTGRESQL / program), "-D", str(folder / "data"), *words]
        subprocess.run(command, check=True, user=ACCOUNT, cwd=folder, stdout=subprocess.DEVNULL)

    call("initdb", "-U", "laser", "-A", "trust")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    call("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql+psycopg2://laser@127.0.0.1:{port}/"
    finally:
        call("pg_ctl", "-m", "immediate", "stop")


@contextmanager
def mariadb(folder: Path, port: int) -> Iterator[str]:
    """Run a server on loopback, without accounts, and yield the address of it without a database."""
    pytest.importorskip("pymysql", reason="MySQL's driver pymysql is not installed")
    if not Path(MARIADB).exists():
        pytest.skip("no MariaDB server is installed (mariadbd)")
    (folder / "data").mkdir()
    command = [
        MARIADB, "--no-defaults", f"--datadir={folder / 'data'}", f"--socket={folder / 'socket'}", f"--port={port}",
        "--bind-address=127.0.0.1", "--skip-grant-tables", "--skip-networking=0",
    ]  # fmt: skip
    account = ["--user=root"] if os.geteuid() == 0 else []
    with (folder / "log").open("w") as log, subprocess.Popen([*command, *account], stdout=log, stderr=log) as process:
        try:
            while not (folder / "socket").exists():
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
            yield f"mysql+pymysql://laser@127.0.0.1:{port}/"
        finally:
            process.kill()


@pytest.fixture(scope="module", params=[postgresql, mariadb])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="laser-server-"))
    (port,) = free_ports(1)
    try:
        with request.param(folder, port) as address:
            yield address
    finally:
        shutil.rmtree(folder)


def test_processes_that_start_at_once_share_a_new_database(server, runs_at_once, tmp_path, monkeypatch):
    from sqlalchemy import create_engine, text

    monkeypatch.chdir(tmp_path)
    for attempt in range(3):
        engine = create_engine(server + ("postgres" if server.startswith("postgres") else ""))
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"CREATE DATABASE attempt{attempt}"))
        engine.dispose()
        runs = runs_at_once(f"{server}attempt{attempt}", "new")
        client = MlflowClient(f"{server}attempt{attempt}")
        (experiment,) = (each for each in client.search_experiments() if each.name == "new")
        assert {run.info.run_id for run in client.search_runs([experiment.experiment_id])} == runs
        assert len(runs) == 2
