"""Kafka Connect's REST interface: configuration and states, and what its answers mean."""

from __future__ import annotations

import json
import socket
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
    "/connectors/long/config": (200, {"a": "b" * 2**20}),
    "/connectors/odd/config": (200, ["no", "mapping"]),
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


@pytest.mark.parametrize("url", ["http://bridge:hidden@localhost", "http://bridge@localhost"])
def test_a_url_with_a_user_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_connector(url, "shop")
    assert "hidden" not in str(caught.value) + caught.value.hint
    assert "kafka.modes" in caught.value.hint


@pytest.mark.parametrize("name", ["long", "odd"])
def test_an_answer_that_is_none_of_connects_is_told(url: str, name: str) -> None:
    with pytest.raises(Unreachable, match="is not Kafka Connect"):
        read_connector(url, name)


def test_a_url_that_cannot_be_asked_keeps_no_cause_that_quotes_it() -> None:
    with pytest.raises(Unreachable) as caught:
        read_connector("http://127.0.0.1:1/a b", "shop")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_server_that_speaks_something_else_is_asked_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"garbage\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unreachable):
            read_connector(f"http://127.0.0.1:{listening.getsockname()[1]}", "shop")
        thread.join()
