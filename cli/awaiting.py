"""Waiting for requests that are executed elsewhere: by another process, or by another thread of this one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from bridge import requests
from bridge.errors import BridgeError, Unreachable
from bridge.qdrant.state import QdrantState
from bridge.requests import Request
from cli.output import note

OnProgress = Callable[[Request], None]

_LOOK_SECONDS = 2.0


def await_elsewhere(
    store: QdrantState,
    asked: Sequence[Request],
    on_progress: OnProgress,
    *,
    is_there: Callable[[], bool],
    gone: Unreachable,
) -> list[Request]:
    """The outcomes. Raises `gone` once nobody `is_there` who executes them; they wait for the next one."""
    looked_at = time.monotonic()

    def look(request: Request) -> None:
        nonlocal looked_at
        on_progress(request)
        if not request.progress.ended and time.monotonic() - looked_at > _LOOK_SECONDS:
            looked_at = time.monotonic()
            if not is_there():
                raise gone

    return requests.await_outcomes(store, asked, on_progress=look)


class GivenUp(BridgeError):
    """Nobody executes any more; internal to who waits."""


def sleep_until(ended: threading.Event) -> Callable[[float], None]:
    """A sleep that raises GivenUp as soon as the executing thread has ended."""

    def sleep(seconds: float) -> None:
        if ended.wait(seconds):
            raise GivenUp("whoever executes it has ended")

    return sleep


def tell_waits(event: str, **fields: object) -> None:
    """Of a daemon's log, what somebody who waits wants to know."""
    if event == "waiting":
        note(f"waiting: {fields.get('reason')}")
