"""Health and metrics over HTTP/1.1, in a thread with an event loop of its own.

External specification: RFC 9112 (message syntax) and RFC 9110, of which this is a part: GET and HEAD
without a body, one request a connection. A thread, because `/healthz` has to answer from the start of
the process and while the daemon's own loop waits for something.

What always holds: a request's head is at most 8 KiB and comes within 5 s, and at most 32 are answered
at once, so that nobody who can reach the port takes memory or threads away from the stream.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self

from bridge.errors import UsageError

REQUEST_BYTES = 8 * 1024
REQUEST_SECONDS = 5.0
REQUESTS_AT_ONCE = 32

JSON = "application/json"
METRICS = "text/plain; version=0.0.4; charset=utf-8"
HTML = "text/html; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer: status, content type, body."""

    status: HTTPStatus = HTTPStatus.OK
    content_type: str = JSON
    body: bytes = b""

    @classmethod
    def of_json(cls, value: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> Self:
        """The value as JSON."""
        return cls(status=status, body=json.dumps(value, ensure_ascii=False).encode() + b"\n")


Routes = Mapping[str, Callable[[], Response]]


class HttpServer:
    """Answers the paths of `routes`, each by a function that does not block for long."""

    def __init__(self, address: tuple[str, int], routes: Routes) -> None:
        """Listens at once, so that a port in use is told before anything else begins: UsageError."""
        self._routes = routes
        self._socket = _listen(*address)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """host:port as it is, also where port 0 was asked for."""
        host, port = self._socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def close(self) -> None:
        """Answer nothing more."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(REQUEST_SECONDS)
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _run(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        loop.create_task(self._serve())
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()

    async def _serve(self) -> None:
        slots = asyncio.Semaphore(REQUESTS_AT_ONCE)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async with slots:
                try:
                    async with asyncio.timeout(REQUEST_SECONDS):
                        writer.write(await self._respond(reader))
                        await writer.drain()
                except (OSError, TimeoutError, EOFError):
                    pass  # whoever asked has gone, or never finished asking
                finally:
                    writer.close()

        server = await asyncio.start_server(answer, sock=self._socket, limit=REQUEST_BYTES)
        async with server:
            await server.serve_forever()

    async def _respond(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _encode(_refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))
        method, path, version = _request_line(head)
        if not version.startswith("HTTP/1."):
            return _encode(_refusal(HTTPStatus.BAD_REQUEST))
        if method not in ("GET", "HEAD"):
            return _encode(_refusal(HTTPStatus.METHOD_NOT_ALLOWED), "Allow: GET, HEAD\r\n")
        route = self._routes.get(path)
        response = _refusal(HTTPStatus.NOT_FOUND) if route is None else route()
        return _encode(response, with_body=method == "GET")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _name, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _refused(host, port, error) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise _refused(host, port, error) from error
    return listening


def _refused(host: str, port: int, error: OSError) -> UsageError:
    return UsageError(
        f"cannot listen on {host}:{port}: {error.strerror}",
        hint="set http.listen to an address of this machine and a free port; port 0 takes any",
    )


def _request_line(head: bytes) -> tuple[str, str, str]:
    """(method, path without its query, version); empty texts if it is none."""
    parts = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    if len(parts) != 3:
        return "", "", ""
    return parts[0], parts[1].partition("?")[0], parts[2]


def _refusal(status: HTTPStatus) -> Response:
    return Response.of_json({"error": status.phrase}, status)


def _encode(response: Response, headers: str = "", *, with_body: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {response.status.value} {response.status.phrase}\r\n"
        f"Content-Type: {response.content_type}\r\n"
        f"Content-Length: {len(response.body)}\r\n"
        f"{headers}Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (response.body if with_body else b"")
