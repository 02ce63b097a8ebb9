"""What the load on the server amounts to."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from time import perf_counter

import pytest

from laser.serving.http.load import Load, row


def test_figures_by_hand():
    assert row(2, [0.001] * 98 + [0.1] * 2, 4.0) == {
        "clients": 2, "requests": 100, "p50_ms": 1.0, "p99_ms": 100.0, "requests_per_second": 25.0
    }  # fmt: skip


@pytest.mark.parametrize("status", [200, 503])
def test_clients_ask_all_histories_in_turn_and_a_failure_ends_the_load(status):
    asked = []

    class Server(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    Thread(target=server.serve_forever, daemon=True).start()
    load = Load(server.server_port, [b"1", b"2", b"3"], perf_counter() + 0.3)
    try:
        if status == 200:
            load.run(2)
            assert {*asked} == {1, 2, 3} and len(load.seconds) == len(asked)
        else:
            with pytest.raises(RuntimeError, match="status 503"):
                load.run(2)
    finally:
        server.shutdown()
        server.server_close()
