"""A real MLflow server that is killed and comes back while runs report to it."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from laser.config.schema import Experiment, TrackingConfig
from laser.errors import UserError
from laser.tracking import store
from laser.tracking.interface import RunResults
from laser.tracking.run import Run
from laser.tracking.runs import open_tracking
from laser.tracking.store import answers

pytestmark = pytest.mark.ray  # starts processes, though none of Ray's: `make chaos` runs it too


class Server:
    """An MLflow server on loopback, over one SQLite file."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.directory, self.uri = directory, f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.directory / 'server.db'}"]
        command += ["--artifacts-destination", str(self.directory / "artifacts")]
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.directory,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while not answers(self.uri):
            assert self.process.poll() is None and time.monotonic() < deadline, self.directory / "server.log"
            time.sleep(0.2)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


def test_reports_outlive_the_server_and_are_recorded_once(server, tmp_path, caplog, monkeypatch):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "weights").write_text("w")
    tracking = open_tracking(TrackingConfig(uri=server.uri))
    run = tracking.start(Experiment(), "train", "away", {"dataset": "d"})
    run.report({"val/ndcg@10": 0.0}, 0)
    server.kill()
    started = time.monotonic()
    for epoch in (1, 2):
        run.report({"val/ndcg@10": epoch / 10}, epoch)
    assert time.monotonic() - started < 5, "a report waits for nobody"
    assert "takes no reports; 2 wait for it, the last of epoch 2" in caplog.messages[-1]
    with pytest.raises(UserError, match="does not answer; start the MLflow server"):
        open_tracking(TrackingConfig(uri=server.uri))

    threading.Timer(1, server.start).start()
    run.set_tags({"waited": "yes"})
    assert any("waiting 600 s for it" in message for message in caplog.messages)
    run.report({"val/ndcg@10": 0.3}, 3)
    client = MlflowClient(server.uri)
    assert recorded(client, run) == [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.3)]
    run.undelivered.append(({"val/ndcg@10": 0.3}, 3, _time_of_the_last(client, run)))  # its answer was lost
    results = RunResults(
        history=[{"epoch": float(epoch), "val/ndcg@10": epoch / 10} for epoch in range(6)],
        figures={"best/ndcg@10": 0.5},
        artifacts={"checkpoint": tmp_path / "files"},
    )
    run.record(results)  # epochs 4 and 5 were never reported, as after a kill
    assert recorded(client, run) == [(epoch, epoch / 10) for epoch in range(6)]
    assert client.get_run(run.run_id).data.metrics["best/ndcg_at_10"] == 0.5

    with pytest.raises(KeyboardInterrupt), tracking.run(Experiment(), "train", "away", {}, run_id=run.run_id):
        server.kill()
        started = time.monotonic()
        raise KeyboardInterrupt
    assert time.monotonic() - started < 5, "whoever interrupts does not wait"
    monkeypatch.setattr(store, "PATIENCE_SECONDS", 1)
    with pytest.raises(UserError, match=r"has not answered for .* minutes; start MLflow again and rerun with resume"):
        run.finish("FAILED")


def test_runs_that_start_at_once_share_an_experiment_that_was_not_there(server, runs_at_once):
    client = MlflowClient(server.uri)
    for attempt in range(5):
        runs = runs_at_once(server.uri, f"new {attempt}")
        experiment = client.get_experiment_by_name(f"new {attempt}")
        assert {run.info.run_id for run in client.search_runs([experiment.experiment_id])} == runs
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(UserError, match="tracking.experiment: 'new 4' was deleted"):
        open_tracking(TrackingConfig(uri=server.uri, experiment="new 4"))


def recorded(client: MlflowClient, run: Run) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run.run_id, "val/ndcg_at_10")]


def _time_of_the_last(client: MlflowClient, run: Run) -> int:
    return client.get_metric_history(run.run_id, "val/ndcg_at_10")[-1].timestamp
