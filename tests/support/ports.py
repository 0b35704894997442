"""Ports for servers that tests stop and start again."""

from __future__ import annotations

import contextlib
import random
import socket
from typing import Final

# Below Linux' ephemeral range: no outgoing connection can take the port while a server is down.
PORTS: Final = range(15_000, 32_000)


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on."""
    for port in random.SystemRandom().sample(PORTS, 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port on 127.0.0.1")
