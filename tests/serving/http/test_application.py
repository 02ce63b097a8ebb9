"""The job that serves, in its own processes on loopback: it answers as the model does, refuses, and ends cleanly."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from laser.cluster.ports import free_ports
from laser.config.jobs import ServeJob
from laser.errors import UserError
from laser.serving.answerer import Answerer

pytestmark = pytest.mark.ray


@dataclass(frozen=True)
class Server:
    address: str
    process: "subprocess.Popen[str]"
    directory: Path

    @property
    def token(self) -> str:
        return (self.directory / "runs" / "serve" / "token").read_text().strip()

    def ask(self, path: str, content: Any = None, token: str | None = None) -> tuple[int, Any]:
        """Return status and body."""
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        data = None if content is None else content if isinstance(content, bytes) else json.dumps(content).encode()
        request = urllib.request.Request(f"{self.address}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())


@pytest.fixture(scope="module")
def server(trained, store, cache, repo, tmp_path_factory) -> Iterator[Server]:
    directory, [port] = tmp_path_factory.mktemp("serve"), free_ports(1)
    command = [
        sys.executable, str(repo / "jobs" / "serve.py"), f"model={trained('stack').package.folder}", f"port={port}",
        f"cache_dir={cache}", f"tracking.uri={store.uri}", "cpus_per_replica=0.5", "batch_wait_ms=20.0",
        "limits.max_k=20",
    ]  # fmt: skip
    log = (directory / "log").open("w")
    process = subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, stderr=log, text=True)
    server = Server(f"http://127.0.0.1:{port}", process, directory)
    deadline = time.monotonic() + 240
    while True:
        assert process.poll() is None and time.monotonic() < deadline, (directory / "log").read_text()[-5000:]
        if "serving at" in (directory / "log").read_text():  # the first replica may answer before
            break
        time.sleep(0.2)
    assert server.ask("/health")[0] == 200
    yield server
    if process.poll() is None:
        process.kill()
        process.wait()


def test_it_answers_as_the_model_does(server, trained, cache):
    model, answerer = trained("stack"), Answerer.open(trained("stack").package, cache)
    raw_ids = model.inputs.dataset.items.column("raw_id").to_pylist()
    examples = model.inputs.test.examples
    histories = [[raw_ids[item] for item in examples.whole_history(row)] for row in range(24)]
    with ThreadPoolExecutor(24) as clients:  # they share passes of the model
        asked = clients.map(lambda h: server.ask("/recommend", {"histories": [h], "k": 5}, server.token), histories)
        answers = list(asked)
    for (status, body), wanted in zip(answers, answerer.recommend(histories, k=5), strict=True):
        assert status == 200
        items = body["answers"][0]["items"]
        assert [row["item"] for row in items] == wanted.items
        assert [row["title"] for row in items] == wanted.titles
        assert [row["score"] for row in items] == pytest.approx(wanted.scores, abs=1e-5)
    status, body = server.ask("/recommend", {"histories": [["?"], histories[0]], "k": 2}, server.token)
    assert [answer["by"] for answer in body["answers"]] == ["popularity", "model"]
    assert body["answers"][0]["unknown"] == ["?"]


def test_it_tells_its_health_and_its_model_without_the_token(server, trained):
    status, body = server.ask("/health")
    assert (status, body["status"]) == (200, "ok")
    assert body["model"]["run_id"] == trained("stack").run.run_id


def test_refusals_have_status_and_field(server):
    history = {"histories": [["a"]]}
    assert server.ask("/recommend", history)[0] == 401
    assert server.ask("/recommend", history, "wrong")[1]["error"]["code"] == "unauthorized"
    assert server.ask("/nothing", token=server.token)[0] == 404
    assert server.ask("/recommend", token=server.token)[0] == 405
    assert server.ask("/recommend", b"{", server.token)[0] == 400
    for fields, field in (({"k": 21}, "k"), ({"allowed": ["nothing"]}, "allowed"), ({"more": 1}, "more")):
        status, body = server.ask("/recommend", history | fields, server.token)
        assert (status, body["error"]["field"]) == (422, field)
    assert server.ask("/recommend", b" " * ((1 << 20) + 1), server.token)[0] == 413


def test_one_bad_request_does_not_spoil_those_that_share_its_pass(server, trained):
    raw = trained("stack").inputs.dataset.items.column("raw_id")[0].as_py()
    good = {"histories": [[raw]], "k": 3}
    with ThreadPoolExecutor(8) as clients:
        asked = [good | ({"allowed": ["nothing"]} if number % 2 else {}) for number in range(8)]
        statuses = list(clients.map(lambda body: server.ask("/recommend", body, server.token)[0], asked))
    assert statuses == [200, 422] * 4


def test_the_token_is_for_this_account_alone_and_the_log_does_not_hold_it(server):
    path = server.directory / "runs" / "serve" / "token"
    assert path.stat().st_mode & 0o777 == 0o600
    assert server.token not in (server.directory / "log").read_text()


def test_on_sigterm_it_ends_with_a_summary_and_is_gone(server):
    os.kill(server.process.pid, signal.SIGTERM)
    output, _ = server.process.communicate(timeout=90)
    log = (server.directory / "log").read_text()
    assert server.process.returncode == 0, log[-5000:]
    assert "starting replicas, 1 of them" in log and "INFO" not in log  # what Serve's own parts say helps nobody
    summary = json.loads(output.splitlines()[-1])
    assert summary["address"] == server.address and summary["seconds"] > 0
    with pytest.raises(OSError):
        urllib.request.urlopen(f"{server.address}/health", timeout=5)


def test_what_is_wrong_is_told_before_ray_starts(tmp_path, monkeypatch):
    from laser.serving.http.running import application_of

    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port: 127.0.0.1:{port}: Address already in use; set another one"):
            application_of(ServeJob(port=port))
    with pytest.raises(UserError, match="new_items: .*no readable file"):
        application_of(ServeJob(new_items="nothing.csv"))
    with pytest.raises(UserError, match="token_file: /proc/laser: "):
        application_of(ServeJob(token_file="/proc/laser/token"))
    with pytest.raises(UserError, match="tracking.uri: .*no such file"):
        application_of(ServeJob())


def test_servers_that_start_at_once_have_one_token(tmp_path):
    from laser.serving.http.running import make_token

    jobs = [ServeJob(token_file=str(tmp_path / str(number) / "token")) for number in range(20)]
    together = threading.Barrier(2)

    def tokens(_: int) -> list[str]:
        read = []
        for job in jobs:
            together.wait()
            make_token(job)
            read.append(Path(job.token_file).read_text())
        return read

    with ThreadPoolExecutor(2) as threads:
        ours, theirs = threads.map(tokens, range(2))
    assert ours == theirs and all(ours)


def test_without_a_token_nobody_else_may_reach_it():
    from laser.serving.http.application import serve_token

    assert serve_token(ServeJob(token_file=None)) is None
    with pytest.raises(UserError, match="token_file: null, and host 0.0.0.0"):
        serve_token(ServeJob(token_file=None, host="0.0.0.0"))
    with pytest.raises(UserError, match="token_file: /nothing: No such file"):
        serve_token(ServeJob(token_file="/nothing"))
