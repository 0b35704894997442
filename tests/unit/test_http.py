"""The HTTP server, spoken to by sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from bridge.errors import UsageError
from sync.http import REQUEST_BYTES, HttpServer, Response


@pytest.fixture
def server() -> Iterator[HttpServer]:
    routes = {
        "/ok": lambda: Response.of_json({"a": "ü"}),
        "/no": lambda: Response.of_json({}, HTTPStatus.SERVICE_UNAVAILABLE),
    }
    with HttpServer(("127.0.0.1", 0), routes) as running:
        yield running


def exchange(server: HttpServer, request: bytes) -> tuple[str, str]:
    """(head, body) of the answer; the server closes the connection."""
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    head, _, body = answer.decode().partition("\r\n\r\n")
    return head, body


def test_a_path_is_answered_with_its_length(server: HttpServer) -> None:
    head, body = exchange(server, b"GET /ok HTTP/1.1\r\nHost: x\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 OK\r\n")
    assert body == '{"a": "ü"}\n'
    assert f"Content-Length: {len(body.encode())}" in head
    assert "Connection: close" in head


def test_a_head_has_no_body_and_a_query_does_not_matter(server: HttpServer) -> None:
    head, body = exchange(server, b"HEAD /no?x=1 HTTP/1.0\r\n\r\n")
    assert head.startswith("HTTP/1.1 503 Service Unavailable")
    assert "Content-Length: 3" in head
    assert body == ""


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /other HTTP/1.1", 404),
        (b"POST /ok HTTP/1.1", 405),
        (b"GET /ok HTTP/2.0", 400),
        (b"GET /ok", 400),
        (b"\x16\x03\x01 nonsense", 400),
    ],
)
def test_anything_else_is_refused(server: HttpServer, request_line: bytes, status: int) -> None:
    head, _ = exchange(server, request_line + b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ")


def test_a_head_without_end_is_refused(server: HttpServer) -> None:
    endless = b"GET /ok HTTP/1.1\r\nX: " + b"x" * (REQUEST_BYTES + 1)
    head, _ = exchange(server, endless)
    assert head.startswith("HTTP/1.1 431 ")


def test_one_who_says_nothing_does_not_hold_up_others(server: HttpServer) -> None:
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port))):
        head, _ = exchange(server, b"GET /ok HTTP/1.1\r\n\r\n")
    assert head.startswith("HTTP/1.1 200")


def test_a_port_in_use_is_refused(server: HttpServer) -> None:
    host, _, port = server.address.rpartition(":")
    with pytest.raises(UsageError, match="cannot listen on"):
        HttpServer((host, int(port)), {})


def test_after_the_end_nobody_answers(server: HttpServer) -> None:
    with HttpServer(("127.0.0.1", 0), {}) as other:
        address = other.address
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=1)
    assert exchange(server, b"GET /ok HTTP/1.1\r\n\r\n")[0].startswith("HTTP/1.1 200")
