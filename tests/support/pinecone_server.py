"""Pinecone for tests: control and data plane over HTTP, spoken to by the official SDK.

    with PineconeServer(index) as server:
        server.faults.add("fetch", refuse(503), nth=2)
        bridge("backfill", "pinecone", "--pinecone.index-name", index.name,
               "--pinecone.service-host", server.url, ...)
        server.requests.of("fetch")

The control plane answers at `url`; every index has a host of its own (`host_of`). `limits` are requests
a second by endpoint, over which the answer is 429. Written after the API's specification (2026-07) and
what the SDK sends; `pinecone_index.py` has what holds of the data.

As a process, with records made up:
`python -m tests.support.pinecone_server --records N [--dimension D] [--namespaces K] ...`
prints `ready URL` and serves until its standard input ends.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import ssl
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import orjson

from tests.support.pinecone_faults import Fault, Faults
from tests.support.pinecone_index import PAGE, ExpiredToken, Index

KEY: Final = "pcsk_canary_do_not_print"
_FETCH_LIMIT: Final = 1000
_CONTROL: Final = "control"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request as it came."""

    endpoint: str
    namespace: str
    ids: tuple[str, ...] = ()
    token: str | None = None


class Requests:
    """What was asked, in order. Safe for threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._all: list[Request] = []
        self.keep = True

    def add(self, request: Request) -> None:
        """Remember it."""
        if not self.keep:
            return
        with self._changed:
            self._all.append(request)
            self._changed.notify_all()

    def of(self, endpoint: str) -> list[Request]:
        """Those to one endpoint."""
        with self._changed:
            return [request for request in self._all if request.endpoint == endpoint]

    def wait_for(self, endpoint: str, count: int, timeout_seconds: float = 60.0) -> None:
        """Return once there were so many."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._count(endpoint) >= count, timeout_seconds):
                raise TimeoutError(f"{self._count(endpoint)} requests to {endpoint}, not {count}")

    def clear(self) -> None:
        """Forget them."""
        with self._changed:
            self._all.clear()

    def _count(self, endpoint: str) -> int:
        return sum(request.endpoint == endpoint for request in self._all)


class PineconeServer:
    """The server in this process. `tls`: (private key file, certificate file)."""

    def __init__(
        self,
        *indexes: Index,
        api_key: str = KEY,
        tls: tuple[str, str] | None = None,
        limits: Mapping[str, float] | None = None,
    ) -> None:
        self.indexes = {index.name: index for index in indexes}
        self.faults = Faults()
        self.requests = Requests()
        self.api_key = api_key
        self.limits = dict(limits or {})
        self.private_hosts: dict[str, str] = {}
        self._tls = tls
        self._listeners: dict[str, _Listener] = {}
        self._recent: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The control plane's."""
        return self._listeners[_CONTROL].url

    def host_of(self, name: str) -> str:
        """The index's own host, with its scheme."""
        return self._listeners[name].url

    def over(self, endpoint: str) -> bool:
        """Whether a request to this endpoint is one too many."""
        limit = self.limits.get(endpoint)
        if limit is None:
            return False
        now = time.monotonic()
        with self._lock:
            recent = self._recent.setdefault(endpoint, deque())
            while recent and now - recent[0] >= 1.0:
                recent.popleft()
            if len(recent) >= limit:
                return True
            recent.append(now)
        return False

    def __enter__(self) -> Self:
        for name in (_CONTROL, *self.indexes):
            self._listeners[name] = _Listener(self, self.indexes.get(name), self._tls)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for listener in self._listeners.values():
            listener.stop()


class _Listener(ThreadingHTTPServer):
    """One host: the control plane's, or an index's."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, owner: PineconeServer, index: Index | None, tls: tuple[str, str] | None
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.owner = owner
        self.index = index
        self._tls: ssl.SSLContext | None = None
        if tls is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(tls[1], tls[0])
        self._open: set[socket.socket] = set()
        self._opening = threading.Lock()
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self.server_address[1]}"

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            connection = self._tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        with self._opening:
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        with self._opening:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away."""

    def stop(self) -> None:
        self.shutdown()
        with self._opening:
            left = list(self._open)
        for connection in left:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()
        self._thread.join()


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self._body = self.rfile.read(length) if length else b""
        parts = urlsplit(self.path)
        self._query = parse_qs(parts.query, keep_blank_values=True)
        endpoint = self._endpoint(parts.path)
        owner = self.server.owner
        fault = owner.faults.meet(endpoint)
        if fault is not None and fault.before is not None:
            fault.before()
        if fault is not None and fault.close:
            self.close_connection = True
            return
        if fault is not None and fault.status is not None:
            self._send(fault.status, _error(fault.message), fault)
            return
        try:
            if owner.over(endpoint):
                raise _Refused(429, "too many requests")
            body = self._content(endpoint, parts.path)
        except _Refused as refused:
            self._send(refused.status, _error(refused.message), fault)
            return
        self._send(200, body if fault is None or fault.body is None else fault.body, fault)

    def _endpoint(self, path: str) -> str:
        if path.startswith("/indexes/"):
            return "describe"
        if path.endswith("/documents/list"):
            return "list"
        if path.endswith("/documents/fetch"):
            return "fetch"
        return {
            "/describe_index_stats": "stats",
            "/namespaces": "namespaces",
            "/vectors/list": "list",
            "/vectors/fetch": "fetch",
        }.get(path, "unknown")

    def _content(self, endpoint: str, path: str) -> bytes:
        owner, index = self.server.owner, self.server.index
        if self.headers.get("Api-Key") != owner.api_key:
            raise _Refused(401, "Invalid API Key")
        if endpoint == "describe" and index is None:
            return self._describe(unquote(path.removeprefix("/indexes/")))
        if index is None or endpoint in ("unknown", "describe"):
            raise _Refused(404, "Not Found")
        if index.kind == "pod" and endpoint in ("list", "namespaces"):
            raise _Refused(400, "this operation is supported for serverless indexes only")
        if endpoint == "stats":
            owner.requests.add(Request(endpoint=endpoint, namespace=""))
            return orjson.dumps(index.stats())
        try:
            if endpoint == "namespaces":
                page = index.list_namespaces(int(self._one("limit") or PAGE), self._token())
                return orjson.dumps(page)
            if path.startswith("/namespaces/"):
                return self._documents(index, endpoint, unquote(path.split("/")[2]))
            if index.kind == "documents":
                raise _Refused(400, "use the documents operations on this index")
            return self._list(index) if endpoint == "list" else self._fetch(index)
        except ExpiredToken:
            raise _Refused(400, "Invalid pagination token") from None

    def _describe(self, name: str) -> bytes:
        owner = self.server.owner
        index = owner.indexes.get(name)
        if index is None:
            raise _Refused(404, f"Resource {name} not found")
        found = index.describe(owner.host_of(name))
        if name in owner.private_hosts:
            found["private_host"] = owner.private_hosts[name]
        return orjson.dumps(found)

    def _one(self, name: str) -> str | None:
        return self._query.get(name, [None])[0]

    def _token(self) -> str | None:
        return self._one("paginationToken")

    def _list(self, index: Index) -> bytes:
        namespace, token = self._one("namespace") or "", self._token()
        limit = int(self._one("limit") or PAGE)
        if limit > PAGE:
            raise _Refused(400, f"limit must be at most {PAGE}")
        ids, following = index.page(namespace, limit, token)
        self.server.owner.requests.add(
            Request(endpoint="list", namespace=namespace, ids=tuple(ids), token=token)
        )
        answer: dict[str, Any] = {
            "vectors": [{"id": one} for one in ids],
            "namespace": namespace,
            "usage": {"readUnits": 1},
        }
        if following is not None:
            answer["pagination"] = {"next": following}
        return orjson.dumps(answer)

    def _fetch(self, index: Index) -> bytes:
        ids, namespace = self._query.get("ids", []), self._one("namespace") or ""
        if not 1 <= len(ids) <= _FETCH_LIMIT:
            raise _Refused(400, f"1 to {_FETCH_LIMIT} ids")
        self.server.owner.requests.add(
            Request(endpoint="fetch", namespace=namespace, ids=tuple(ids))
        )
        found = index.found(namespace, ids)
        vectors = b",".join(json.dumps(one).encode() + b":" + body for one, body in found)
        return (
            b'{"vectors":{' + vectors + b'},"namespace":' + json.dumps(namespace).encode()
            + b',"usage":{"readUnits":%d}}' % max(1, len(found) // 10)
        )  # fmt: skip

    def _documents(self, index: Index, endpoint: str, namespace: str) -> bytes:
        asked = orjson.loads(self._body or b"{}")
        answer: dict[str, Any] = {"namespace": namespace, "usage": {"read_units": 1}}
        if endpoint == "list":
            token = asked.get("pagination_token")
            ids, following = index.page(namespace, int(asked.get("limit") or PAGE), token)
            answer["documents"] = [{"_id": one} for one in ids]
            if following is not None:
                answer["pagination"] = {"next": following}
        else:
            ids = asked.get("ids") or []
            found = index.found(namespace, ids)
            answer["documents"] = {one: orjson.loads(body) for one, body in found}
        self.server.owner.requests.add(
            Request(endpoint=endpoint, namespace=namespace, ids=tuple(ids))
        )
        return orjson.dumps(answer)

    def _send(self, status: int, body: bytes, fault: Fault | None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in fault.headers if fault is not None else ():
            self.send_header(name, value)
        self.end_headers()
        if fault is not None and fault.cut is not None and status == 200:
            body = body[: int(len(body) * fault.cut)]
            self.close_connection = True
        self.wfile.write(body)
        self.wfile.flush()


def _error(message: str) -> bytes:
    return orjson.dumps({"error": {"code": "INJECTED", "message": message}})


# --- as a process ---------------------------------------------------------------------------------

_VARIETY: Final = 500


def made_up(records: int, dimension: int, namespaces: int) -> Index:
    """An index of so many records, spread evenly; vectors repeat after a while to spare memory."""
    index = MadeUp(dimension)
    for number in range(records):
        namespace = "" if namespaces == 1 else f"ns-{number % namespaces:02d}"
        index.put_raw(f"item-{number:08d}", b"", namespace)
    return index


class MadeUp(Index):
    """Makes the JSON of a record when it is asked for: a million of them need not lie in memory."""

    def __init__(self, dimension: int) -> None:
        super().__init__("bench", dimension=dimension, metric="dotproduct")
        numbers = np.random.default_rng(7).standard_normal((_VARIETY, dimension))
        self._texts = [
            orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)
            for row in numbers.astype(np.float32)
        ]

    def found(self, namespace: str, ids: Sequence[str]) -> list[tuple[str, bytes]]:
        return [(one, self._record(one)) for one, _ in super().found(namespace, ids)]

    def _record(self, identity: str) -> bytes:
        number = int(identity.removeprefix("item-"))
        return (
            b'{"id":"%b","values":%b,"metadata":{"title":"Item %d","lang":"en","price":%d.5,'
            b'"n":%d.0,"tags":["a","b"]}}'
            % (identity.encode(), self._texts[number % _VARIETY], number, number % 900, number)
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve made-up records until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--dimension", type=int, default=1536)
    parser.add_argument("--namespaces", type=int, default=1)
    parser.add_argument("--list-limit", type=float)
    parser.add_argument("--fetch-limit", type=float)
    given = parser.parse_args(arguments)
    limits = {"list": given.list_limit, "fetch": given.fetch_limit}
    index = made_up(given.records, given.dimension, given.namespaces)
    kept = {name: limit for name, limit in limits.items() if limit is not None}
    with PineconeServer(index, limits=kept) as server:
        server.requests.keep = False
        print(f"ready {server.url}", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
