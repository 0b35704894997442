"""A TCP proxy on 127.0.0.1 that stands for a network which fails.

    with TcpProxy(server.port) as proxy:
        client = connect(proxy.port)
        proxy.cut()         # every connection is reset, new ones are welcome
        proxy.refuse()      # nobody listens; connections that exist go on
        proxy.black_hole()  # everything is accepted, nothing arrives, nobody is told
        proxy.heal()        # as in the beginning

Bytes swallowed by a black hole are lost; `heal` resets the connections that it held, because what
they would carry afterwards had a gap.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from tests.support.ports import free_port

CHUNK_BYTES: Final = 65_536
POLL_SECONDS: Final = 0.1
CONNECT_SECONDS: Final = 5.0


class TcpProxy:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`target_port`; the port stays over `refuse`."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = free_port()
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._swallow = threading.Event()
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self.accept()

    @property
    def connections(self) -> int:
        """How many connections it holds now."""
        with self._lock:
            return len(self._links)

    def cut(self) -> None:
        """Reset every connection now."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.reset()

    def refuse(self) -> None:
        """Stop listening: a connection attempt is refused."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # Wakes the thread in accept(), which would keep the socket listening otherwise.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        if self._acceptor is not None:
            self._acceptor.join()
            self._acceptor = None

    def accept(self) -> None:
        """Listen again, on the same port."""
        if self._listener is not None:
            return
        listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        listener.settimeout(POLL_SECONDS)
        self._listener = listener
        self._acceptor = threading.Thread(
            target=self._accept_loop, args=(listener,), name="proxy-accept", daemon=True
        )
        self._acceptor.start()

    def black_hole(self) -> None:
        """Swallow every byte both ways; accept new connections and leave them without an answer."""
        self._swallow.set()

    def heal(self) -> None:
        """End `refuse` and `black_hole`."""
        if self._swallow.is_set():
            self._swallow.clear()
            with self._lock:
                gapped = [link for link in self._links if link.gapped]
            for link in gapped:
                link.reset()
        self.accept()

    def close(self) -> None:
        """Refuse and cut, for good."""
        self.refuse()
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _accept_loop(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            client.setblocking(True)
            self._open(client)

    def _open(self, client: socket.socket) -> None:
        server: socket.socket | None = None
        if not self._swallow.is_set():
            try:
                server = socket.create_connection(
                    ("127.0.0.1", self.target_port), timeout=CONNECT_SECONDS
                )
            except OSError:
                _linger(client)
                client.close()
                return
            server.settimeout(None)
        link = _Link(client, server, self._swallow, self._forget)
        with self._lock:
            self._links.add(link)
        link.start()

    def _forget(self, link: _Link) -> None:
        with self._lock:
            self._links.discard(link)


class _Link:
    """One connection through the proxy; `server` is None if it was made into a black hole."""

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket | None,
        swallow: threading.Event,
        forget: Callable[[_Link], None],
    ) -> None:
        self.gapped = server is None
        self._client = client
        self._server = server
        self._swallow = swallow
        self._forget = forget
        self._lock = threading.Lock()
        self._ended = 0

    def start(self) -> None:
        pairs = [(self._client, self._server)]
        if self._server is not None:
            pairs.append((self._server, self._client))
        for source, sink in pairs:
            threading.Thread(
                target=self._pump, args=(source, sink), name="proxy-pump", daemon=True
            ).start()

    def reset(self) -> None:
        """Drop both sides without a farewell."""
        self._forget(self)
        for side in (self._client, self._server):
            if side is not None:
                _reset(side)

    def _pump(self, source: socket.socket, sink: socket.socket | None) -> None:
        try:
            while data := source.recv(CHUNK_BYTES):
                if sink is None or self._swallow.is_set():
                    self.gapped = True
                else:
                    sink.sendall(data)
            broken = False
        except OSError:
            broken = True
        if sink is None or self._swallow.is_set():
            # Not even the end of a connection gets through; `heal` resets what is left of it.
            self.gapped = True
        elif broken:
            self.reset()
        else:
            self._end(sink)

    def _end(self, sink: socket.socket) -> None:
        """Pass on that one side has said all; close when both have."""
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        with self._lock:
            self._ended += 1
            if self._ended < 2:
                return
        self._forget(self)
        for side in (self._client, self._server):
            if side is not None:
                side.close()


def _reset(side: socket.socket) -> None:
    """Close with a reset; first wake the threads that wait in it, which keep it open otherwise."""
    _linger(side)
    with contextlib.suppress(OSError):
        side.shutdown(socket.SHUT_RDWR)
    side.close()


def _linger(side: socket.socket) -> None:
    """From now on a close sends RST, not FIN."""
    with contextlib.suppress(OSError):
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
