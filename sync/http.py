"""Health, metrics and the status page over HTTP/1.1, in a thread with an event loop of its own.

External specification: RFC 9112 (message syntax) and RFC 9110, of which this is a part: GET and HEAD
without a body, one request a connection; WHATWG HTML, section 9.2 (server-sent events), for a `Feed`.
A thread, because `/healthz` has to answer from the start of the process and while the daemon's own
loop waits for something.

What always holds: a request's head is at most 8 KiB and comes within 5 s, at most 32 are answered at
once, and at most 8 feeds are open beside them, each of which has 5 s to take an event; so nobody who
can reach the port takes memory or threads away from the stream, or keeps a probe from its answer.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self

from bridge.errors import UsageError

FEEDS_AT_ONCE = 8
TICK_SECONDS = 1.0
REQUEST_BYTES = 8 * 1024
REQUEST_SECONDS = 5.0
REQUESTS_AT_ONCE = 32

JSON = "application/json"
METRICS = "text/plain; version=0.0.4; charset=utf-8"
HTML = "text/html; charset=utf-8"
EVENTS = "text/event-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer: status, content type, body."""

    status: HTTPStatus = HTTPStatus.OK
    content_type: str = JSON
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of_json(cls, value: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> Self:
        """The value as JSON."""
        return cls(status=status, body=_json(value) + b"\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """An answer without end: `first` at once, then what `following` gives, every second."""

    first: Callable[[], Mapping[str, Any]]
    following: Callable[[], Mapping[str, Any]]


Routes = Mapping[str, Callable[[], Response | Feed]]


class HttpServer:
    """Answers the paths of `routes`, each by a function that does not block for long."""

    def __init__(
        self, address: tuple[str, int], routes: Routes, tick: Callable[[], None] | None = None
    ) -> None:
        """Listens at once, so that a port in use is told before anything else begins: UsageError.

        `tick` is called every second, in this thread.
        """
        self._routes = routes
        self._tick = tick
        self._feeds = 0
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
        """Answer nothing more. A second time does nothing."""
        if self._loop.is_closed():
            return
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
        begun = [loop.create_task(self._serve(), name="serve")]
        if self._tick is not None:
            begun.append(loop.create_task(self._tick_on(self._tick), name="tick"))
        loop.run_forever()
        tasks = {*asyncio.all_tasks(loop), *begun}
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()

    async def _tick_on(self, tick: Callable[[], None]) -> None:
        while True:
            tick()
            await asyncio.sleep(TICK_SECONDS)

    async def _serve(self) -> None:
        slots = asyncio.Semaphore(REQUESTS_AT_ONCE)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                async with slots, asyncio.timeout(REQUEST_SECONDS):
                    response = await self._respond(reader)
                    if isinstance(response, bytes):
                        writer.write(response)
                        await writer.drain()
                        return
                await self._feed(response, writer)
            except (OSError, TimeoutError, EOFError):
                pass  # whoever asked has gone, or never finished asking
            except asyncio.CancelledError:
                pass  # the server closes; this is the end of the task, and asyncio would complain
            finally:
                writer.close()

        server = await asyncio.start_server(answer, sock=self._socket, limit=REQUEST_BYTES)
        async with server:
            await server.serve_forever()

    async def _feed(self, feed: Feed, writer: asyncio.StreamWriter) -> None:
        """Events until whoever listens has gone."""
        self._feeds += 1
        try:
            writer.write(_encode_head(HTTPStatus.OK, EVENTS, ()))
            value = feed.first()
            while True:
                async with asyncio.timeout(REQUEST_SECONDS):
                    writer.write(b"data: " + _json(value) + b"\n\n")
                    await writer.drain()
                await asyncio.sleep(TICK_SECONDS)
                value = feed.following()
        finally:
            self._feeds -= 1

    async def _respond(self, reader: asyncio.StreamReader) -> bytes | Feed:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _encode(_refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))
        method, path, version = _request_line(head)
        if not version.startswith("HTTP/1."):
            return _encode(_refusal(HTTPStatus.BAD_REQUEST))
        if method not in ("GET", "HEAD"):
            return _encode(_refusal(HTTPStatus.METHOD_NOT_ALLOWED, ("Allow", "GET, HEAD")))
        route = self._routes.get(path)
        response = _refusal(HTTPStatus.NOT_FOUND) if route is None else route()
        if isinstance(response, Feed):
            if method == "HEAD":
                return _encode_head(HTTPStatus.OK, EVENTS, ())
            if self._feeds < FEEDS_AT_ONCE:
                return response
            # /status.json has the same, for those who then ask from time to time.
            response = _refusal(HTTPStatus.SERVICE_UNAVAILABLE, ("Retry-After", "5"))
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


def _refusal(status: HTTPStatus, *headers: tuple[str, str]) -> Response:
    body = _json({"error": status.phrase}) + b"\n"
    return Response(status=status, body=body, headers=headers)


def _encode(response: Response, *, with_body: bool = True) -> bytes:
    length = ("Content-Length", str(len(response.body)))
    head = _encode_head(response.status, response.content_type, (length, *response.headers))
    return head + (response.body if with_body else b"")


def _encode_head(
    status: HTTPStatus, content_type: str, headers: Iterable[tuple[str, str]]
) -> bytes:
    told = "".join(f"{name}: {value}\r\n" for name, value in headers)
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {content_type}\r\n"
        f"{told}Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("latin-1")


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
