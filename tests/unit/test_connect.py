"""Kafka Connect's REST interface: configuration and states, and what its answers mean."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from bridge.errors import Unreachable, UsageError
from sync.connect import read_connector

ANSWERS: dict[str, tuple[int, Any]] = {
    "/connectors/shop%2F1/config": (
        200,
        {"snapshot.mode": "no_data", "database.password": "hidden", "tasks.max": 1},
    ),
    "/connectors/shop%2F1/status": (
        200,
        {
            "connector": {"state": "RUNNING"},
            "tasks": [{"state": "FAILED", "trace": "DataException: e\n\tat x"}],
        },
    ),
    "/connectors/busy/config": (409, {}),
}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        code, body = ANSWERS.get(self.path, (404, {}))
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def test_a_connector_is_told_with_its_states_and_without_its_password(url: str) -> None:
    found = read_connector(url, "shop/1")
    assert found.config == {"snapshot.mode": "no_data", "tasks.max": "1"}
    assert found.states == ("RUNNING", "FAILED")
    assert found.failed
    assert found.trace == "DataException: e"


def test_a_missing_connector_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(UsageError):
        read_connector(url, "missing")


def test_a_busy_worker_is_asked_again(url: str) -> None:
    with pytest.raises(Unreachable):
        read_connector(url, "busy")


def test_nobody_there_is_asked_again() -> None:
    with pytest.raises(Unreachable):
        read_connector("http://127.0.0.1:1", "shop")


def test_another_scheme_is_refused() -> None:
    with pytest.raises(UsageError):
        read_connector("file:///etc", "shop")
