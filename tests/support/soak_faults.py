"""What a soak does to the Qdrant test server, at random."""

from __future__ import annotations

import random
import threading
from typing import Final

from tests.support.qdrant_faults import Action
from tests.support.qdrant_server import (
    QdrantServer,
    delay,
    internal,
    lost_response,
    rate_limited,
    unavailable,
    wait_timeout,
)

_WRITES: Final = ("Upsert", "UpdateBatch", "Delete")
_METHODS: Final = (*_WRITES, "Get", "Scroll", "Count", "Collections.Get", "*")
_ACTIONS: Final[tuple[Action, ...]] = (
    unavailable(), internal(), lost_response(), rate_limited(1), delay(0.7),
)  # fmt: skip


def add_fault(server: QdrantServer, numbers: random.Random) -> None:
    """Some of its next answers are faults."""
    choices = [(method, action) for method in _METHODS for action in _ACTIONS]
    method, action = numbers.choice(choices + [(m, wait_timeout()) for m in _WRITES])
    server.faults.add(
        method=method,
        action=action,
        nth=numbers.randrange(1, 20),
        times=numbers.choice((1, 1, 3, 10)),
    )


def kill_for_a_while(server: QdrantServer, numbers: random.Random, pause: threading.Event) -> None:
    """Up to two seconds without it."""
    server.kill()
    pause.wait(numbers.uniform(0.0, 2.0))
    server.start()
