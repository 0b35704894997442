"""A Qdrant server for tests: the gRPC interface of 1.18.3 over Qdrant Edge, with faults on demand.

A stock `QdrantClient(prefer_grpc=True, check_compatibility=False)` and the bridge's own client
speak to it. What it keeps lies in its directory and survives `stop`, `kill` and a new object on the
same directory. Not there: aliases, snapshots, clusters, strict mode (inject `rate_limited`),
background optimisation (searches are exact), geo conditions; and, being a later engine, upsert
replaces named vectors fully where 1.18 keeps those left out in optimised segments.

    with QdrantServer(directory) as server:
        server.faults.add(method="Upsert", action=unavailable(), nth=3, times=2)
        ...
        server.requests.wait_for("Upsert", 3)

As a process: `python -m tests.support.qdrant_server --directory D [--port P] [--api-key-file F]`
prints `ready PORT`.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc
from qdrant_client.grpc import collections_service_pb2_grpc as collections_grpc
from qdrant_client.grpc import points_service_pb2_grpc as points_grpc
from qdrant_client.grpc import qdrant_pb2_grpc as qdrant_grpc

from tests.support.ports import free_port
from tests.support.qdrant_collections import CollectionsService, QdrantService
from tests.support.qdrant_faults import (
    Faults,
    Requests,
    Status,
    contains_point,
    delay,
    fail,
    internal,
    lost_response,
    rate_limited,
    reject,
    unavailable,
    wait_timeout,
)
from tests.support.qdrant_points import PointsService
from tests.support.qdrant_store import Store, translate

__all__ = [
    "Faults",
    "QdrantServer",
    "Requests",
    "Status",
    "contains_point",
    "delay",
    "fail",
    "internal",
    "lost_response",
    "rate_limited",
    "reject",
    "unavailable",
    "wait_timeout",
]

LOG: Final = logging.getLogger(__name__)
THREADS: Final = 32
OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A second server on the port is an error, not a sharer.
    ("grpc.so_reuseport", 0),
)


class QdrantServer:
    """The server in this process. `tls`: (private key, certificate chain), PEM bytes."""

    def __init__(
        self,
        directory: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str | None = None,
        tls: tuple[bytes, bytes] | None = None,
    ) -> None:
        self.directory = directory
        self._host = host
        self.port = port or free_port()
        self.faults = Faults()
        self.requests = Requests()
        self._api_key = api_key
        self._tls = tls
        self._server: grpc.Server | None = None
        self._pool: futures.ThreadPoolExecutor | None = None
        self._stopping = threading.Event()
        self._store = Store(directory)

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`, or https with TLS."""
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Open the collections and listen; on the same port as before a stop."""
        if self._server is not None:
            raise RuntimeError("the Qdrant test server runs already")
        self._stopping = threading.Event()
        self._store = Store(self.directory)
        self._pool = futures.ThreadPoolExecutor(THREADS, thread_name_prefix="qdrant-test-server")
        interceptor = _Interceptor(self.faults, self.requests, self._stopping, self._api_key)
        server = grpc.server(self._pool, interceptors=[interceptor], options=OPTIONS)
        _register(server, self._store)
        address = f"{self._host}:{self.port}"
        if self._tls is None:
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, grpc.ssl_server_credentials([self._tls]))
        self._store.open()
        server.start()
        self._server = server
        return self

    def stop(self, grace: float | None = None) -> None:
        """Take no new requests, end those under way after `grace` seconds, release the files."""
        if self._server is None or self._pool is None:
            return
        if grace is None:
            self._stopping.set()
        self._server.stop(grace).wait()
        self._stopping.set()
        # Handlers outlive their cancelled calls; none may meet the next server on these files.
        self._pool.shutdown(wait=True)
        self._store.close()
        self._server = self._pool = None

    def kill(self) -> None:
        """Drop every connection at once; requests that are held or waiting are not applied."""
        self.stop(None)

    def hold(self, collection: str) -> None:
        """Until the next start: keep writes that do not wait back until one comes that does."""
        self._store.get(collection).holding = True

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _register(server: Any, store: Store) -> None:
    services: Any = qdrant_grpc, collections_grpc, points_grpc  # generated without types
    services[0].add_QdrantServicer_to_server(QdrantService(), server)
    services[1].add_CollectionsServicer_to_server(CollectionsService(store), server)
    services[2].add_PointsServicer_to_server(PointsService(store), server)


class _Interceptor(grpc.ServerInterceptor):  # type: ignore[misc]
    """Around every method: the API key, the counters, the faults, the statuses."""

    def __init__(
        self, faults: Faults, requests: Requests, stopping: threading.Event, api_key: str | None
    ) -> None:
        self._faults = faults
        self._requests = requests
        self._stopping = stopping
        self._api_key = api_key

    def intercept_service(
        self, continuation: Callable[[Any], Any], handler_call_details: Any
    ) -> Any:
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        service, _, name = handler_call_details.method.rpartition("/")
        method = f"{service.rpartition('.')[2]}.{name}"

        def respond(request: Any, context: Any) -> Any:
            try:
                self._authorise(method, context)
                self._requests.arrive(method, request)

                def execute() -> Any:
                    return self._execute(handler, request, context)

                return self._faults.run(method, request, execute, self._stopping)
            except Exception as error:
                if not isinstance(error, Status | ValueError):
                    LOG.exception("the Qdrant test server failed in %s", method)
                status = error if isinstance(error, Status) else translate(error)
                context.set_trailing_metadata(status.trailing)
                context.abort(status.code, status.message)

        return grpc.unary_unary_rpc_method_handler(
            respond,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _execute(self, handler: Any, request: Any, context: Any) -> Any:
        if self._stopping.is_set():
            raise Status(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        return handler.unary_unary(request, context)

    def _authorise(self, method: str, context: Any) -> None:
        if self._api_key is None or method == "Qdrant.HealthCheck":
            return
        metadata = {item.key: item.value for item in context.invocation_metadata()}
        bearer = metadata.get("authorization", "").removeprefix("Bearer ")
        given = metadata.get("api-key") or bearer
        if not given:
            raise Status(
                grpc.StatusCode.UNAUTHENTICATED,
                "Must provide an API key or an Authorization bearer token",
            )
        if given != self._api_key:
            raise Status(grpc.StatusCode.UNAUTHENTICATED, "Invalid API key or JWT")


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="A Qdrant server for tests")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--api-key-file", type=Path)
    arguments = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    key = arguments.api_key_file.read_text().strip() if arguments.api_key_file else None
    with QdrantServer(arguments.directory, port=arguments.port, api_key=key) as server:
        print(f"ready {server.port}", flush=True)
        ended.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
