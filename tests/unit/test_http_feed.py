"""Server-sent events, and that those who listen do not keep others from their answers."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from sync.http import FEEDS_AT_ONCE, Feed, HttpServer, Response, Routes
from sync.status_page import page


class Numbers:
    """A feed that counts; `ticked` is set by the server's tick."""

    def __init__(self) -> None:
        self.ticked = threading.Event()
        self._next = 0

    def following(self) -> dict[str, Any]:
        self._next += 1
        return {"number": self._next}


@pytest.fixture
def numbers() -> Numbers:
    return Numbers()


@pytest.fixture
def server(numbers: Numbers) -> Iterator[HttpServer]:
    routes: Routes = {
        "/events": lambda: Feed(first=lambda: {"first": "ü\n"}, following=numbers.following),
        "/ok": lambda: Response.of_json({"a": 1}),
        "/": page,
    }
    with HttpServer(("127.0.0.1", 0), routes, numbers.ticked.set) as running:
        yield running


@contextmanager
def asked(server: HttpServer, path: str, method: str = "GET") -> Iterator[socket.SocketIO]:
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"{method} {path} HTTP/1.1\r\n\r\n".encode())
        with connection.makefile("rb", buffering=0) as answer:
            yield answer


def head_of(answer: socket.SocketIO) -> list[str]:
    lines: list[str] = []
    while line := answer.readline().decode().rstrip("\r\n"):
        lines.append(line)
    return lines


def event_of(answer: socket.SocketIO) -> Any:
    line = answer.readline().decode()
    assert line.startswith("data: ")
    assert answer.readline() == b"\n"
    return json.loads(line.removeprefix("data: "))


def test_a_feed_sends_what_is_there_at_once_and_then_goes_on(server: HttpServer) -> None:
    with asked(server, "/events") as answer:
        head = head_of(answer)
        assert head[0] == "HTTP/1.1 200 OK"
        assert "Content-Type: text/event-stream" in head
        assert not any(line.startswith("Content-Length") for line in head)
        assert event_of(answer) == {"first": "ü\n"}
        assert [event_of(answer), event_of(answer)] == [{"number": 1}, {"number": 2}]


def test_a_head_of_a_feed_ends(server: HttpServer) -> None:
    with asked(server, "/events", "HEAD") as answer:
        assert head_of(answer)[0] == "HTTP/1.1 200 OK"
        assert answer.read() == b""


def test_too_many_feeds_are_refused_and_probes_still_answered(server: HttpServer) -> None:
    with ExitStack() as stack:
        for _ in range(FEEDS_AT_ONCE):
            answer = stack.enter_context(asked(server, "/events"))
            head_of(answer)
            event_of(answer)
        with asked(server, "/events") as refused:
            head = head_of(refused)
            assert head[0].startswith("HTTP/1.1 503 ")
            assert "Retry-After: 5" in head
        with asked(server, "/ok") as ok:
            assert head_of(ok)[0] == "HTTP/1.1 200 OK"


def test_the_servers_end_ends_a_feed(numbers: Numbers) -> None:
    routes = {"/events": lambda: Feed(first=dict, following=numbers.following)}
    server = HttpServer(("127.0.0.1", 0), routes)
    with asked(server, "/events") as answer:
        head_of(answer)
        event_of(answer)
        server.close()
        while answer.read(4096):
            pass


def test_the_tick_is_called(server: HttpServer, numbers: Numbers) -> None:
    assert numbers.ticked.wait(10)


def test_the_page_runs_nothing_but_its_own_script(server: HttpServer) -> None:
    with asked(server, "/") as answer:
        head = head_of(answer)
        body = answer.readall().decode()
    (policy,) = [line for line in head if line.startswith("Content-Security-Policy: ")]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert policy.count("'sha256-") == 2
    assert "X-Content-Type-Options: nosniff" in head
    assert "http://" not in body.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in body
    assert "innerHTML" not in body
