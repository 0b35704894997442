from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.proxy import TcpProxy

WAIT_SECONDS = 10.0
SILENCE_SECONDS = 0.3


class Echo:
    """A server that sends back what it gets, and counts the bytes."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.received = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while data := connection.recv(4096):
                self.received += len(data)
                connection.sendall(data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[TcpProxy]:
    with TcpProxy(echo.port) as through:
        yield through


def connect(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=WAIT_SECONDS)


def exchange(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    got = b""
    while len(got) < len(data):
        part = client.recv(65_536)
        if not part:
            break
        got += part
    return got


def is_dead(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def test_bytes_pass_both_ways(proxy: TcpProxy) -> None:
    data = bytes(range(256)) * 4000
    with connect(proxy) as client:
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        got = b""
        while len(got) < len(data):
            got += client.recv(65_536)
        sender.join()
    assert got == data


def test_the_last_bytes_arrive_before_an_orderly_close(proxy: TcpProxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"farewell")
        client.shutdown(socket.SHUT_WR)
        got = b""
        while part := client.recv(4096):
            got += part
    assert got == b"farewell"


def test_cut_ends_connections_and_welcomes_new_ones(proxy: TcpProxy) -> None:
    with connect(proxy) as client:
        assert exchange(client, b"before") == b"before"
        proxy.cut()
        assert is_dead(client)
    assert proxy.connections == 0
    with connect(proxy) as client:
        assert exchange(client, b"after") == b"after"


def test_refuse_turns_new_connections_away_and_leaves_others(proxy: TcpProxy) -> None:
    with connect(proxy) as client:
        assert exchange(client, b"1") == b"1"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        assert exchange(client, b"2") == b"2"
    proxy.accept()
    with connect(proxy) as client:
        assert exchange(client, b"3") == b"3"


def test_a_black_hole_swallows_without_telling(proxy: TcpProxy, echo: Echo) -> None:
    with connect(proxy) as old:
        assert exchange(old, b"seen") == b"seen"
        proxy.black_hole()
        old.sendall(b"lost")
        old.settimeout(SILENCE_SECONDS)
        with pytest.raises(TimeoutError):
            old.recv(1)
        with connect(proxy) as new:
            new.sendall(b"lost too")
            new.settimeout(SILENCE_SECONDS)
            with pytest.raises(TimeoutError):
                new.recv(1)
        assert echo.received == len(b"seen")


def test_heal_resets_what_has_a_gap_and_serves_again(proxy: TcpProxy) -> None:
    with connect(proxy) as client:
        assert exchange(client, b"seen") == b"seen"
        proxy.black_hole()
        client.sendall(b"lost")
        client.settimeout(SILENCE_SECONDS)
        with pytest.raises(TimeoutError):
            client.recv(1)
        proxy.heal()
        client.settimeout(WAIT_SECONDS)
        assert is_dead(client)
    with connect(proxy) as client:
        assert exchange(client, b"again") == b"again"


def test_a_target_that_is_down_resets_the_client(echo: Echo) -> None:
    echo.close()
    with (
        TcpProxy(echo.port) as proxy,
        pytest.raises(ConnectionResetError),
        connect(proxy) as client,
    ):
        client.recv(1)


def test_cut_reaches_a_client_that_does_not_read(echo: Echo) -> None:
    with TcpProxy(echo.port) as proxy, connect(proxy) as client:
        client.settimeout(SILENCE_SECONDS)
        with pytest.raises(TimeoutError):
            while True:
                client.sendall(bytes(65_536))
        client.settimeout(WAIT_SECONDS)
        proxy.cut()
        with pytest.raises(ConnectionError):
            while True:
                client.sendall(bytes(65_536))
