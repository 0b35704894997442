"""What may pass by itself is left to the client, whatever it looks like."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import pytest

from bridge.errors import UsageError
from sync.kafka_place import KafkaPlace
from sync.kafka_probe import require_understanding
from tests.support.tls import AUTHORITY


@contextmanager
def broker(answer: Callable[[bytes], bytes]) -> Iterator[str]:
    """Somebody who answers the first bytes of each connection, and then closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    line, _address = listener.accept()
                except OSError:
                    return
                with line:
                    line.sendall(answer(line.recv(4096)))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def handshake(code: int, *offered: str) -> bytes:
    names = b"".join(struct.pack(">h", len(name)) + name.encode() for name in offered)
    body = struct.pack(">ihi", 1, code, len(offered)) + names
    return struct.pack(">i", len(body)) + body


def look(*servers: str, security: Literal["plaintext", "tls"] = "plaintext") -> None:
    place = KafkaPlace(
        bootstrap_servers=servers,
        security=security,
        ca_file=str(AUTHORITY) if security == "tls" else None,
    )

    def nobody() -> None:
        raise AssertionError("nobody authenticates")

    require_understanding(place, nobody)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00\x00\x00\x04\x00\x00\x00\x01",
        handshake(0)[:9],
        struct.pack(">iihi", 10, 1, 33, 5),
        struct.pack(">i", 2**31 - 1) + b"\x00\x00\x00\x01",
    ],
    ids=["closed", "another protocol", "no body", "cut", "fewer names", "too long"],
)
def test_what_is_not_certain_is_no_wrong_setting(answer: bytes) -> None:
    with broker(lambda _asked: answer) as address:
        look(address)
        look(address, security="tls")


def test_a_broker_that_does_not_listen_is_left_to_the_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    look(address)
    look("nowhere.invalid:9092")


def test_the_first_that_can_be_reached_tells() -> None:
    with (
        broker(lambda _asked: handshake(33, "PLAIN")) as secured,
        pytest.raises(UsageError) as caught,
    ):
        look("nowhere.invalid:9092", secured)
    assert "it offers plain" in caught.value.hint
    with broker(lambda _asked: handshake(34)) as plain:
        look(plain)
        with pytest.raises(UsageError) as caught:
            look(plain, security="tls")
    assert "speaks no TLS" in caught.value.message
