"""Handing requests to the process that holds the pipeline, or being it for so long.

With a live lease the request is left in the state, and its holder executes it in its stream. Without one
this process takes the lease and runs the daemon until its requests have ended: there is one way only in
which rows are written beside the stream, whoever does it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from bridge import requests
from bridge.config import Effective
from bridge.errors import StopError, Unreachable, UsageError
from bridge.lease import Lease, held
from bridge.qdrant.guarded import GuardedTarget
from bridge.qdrant.state import QdrantState
from bridge.requests import Request
from bridge.status import read_stream
from cli.awaiting import OnProgress, await_elsewhere, sleep_until, tell_waits
from cli.handoff import extend, make_daemon
from cli.output import note
from cli.places import Place, state_of
from sync.daemon import Daemon


def is_held(store: QdrantState) -> bool:
    """Whether another process holds the pipeline."""
    try:
        Lease(store).require_takeable(_tell_watched)
    except StopError as error:
        if error.code != "LEASE_HELD":
            raise
        return True
    return False


def await_holder(
    store: QdrantState, asked: Sequence[Request], on_progress: OnProgress
) -> list[Request]:
    """The outcomes. Unreachable if the holder ends before; the requests then wait for the next one."""
    return await_elsewhere(
        store,
        asked,
        on_progress,
        is_there=lambda: is_held(store),
        gone=Unreachable(
            "the daemon has ended before it was done",
            hint="the request is kept: it goes on when qdrant-bridge sync postgres (or run) "
            "is started again",
        ),
    )


@contextmanager
def holding(effective: Effective, place: Place) -> Iterator[Place]:
    """Be the holder: the place whose every write looks at the lease first.

    UsageError if another process, which does not run the pipeline, has the place open.
    """
    store = state_of(place, effective.settings)
    if place.beside:
        raise UsageError(
            f"another process has {place.target.label} open, and does not run pipeline "
            f"{store.pipeline}",
            hint="wait for that process, or stop it; then run the same command again",
        )
    with held(store, on_wait=_tell_watched) as lease:
        yield replace(place, target=GuardedTarget(place.target, before=lease.require))


def execute(
    effective: Effective, place: Place, asked: Sequence[Request], on_progress: OnProgress
) -> list[Request]:
    """Run the daemon until the requests have ended; `place` is that of `holding`."""
    store = state_of(place, effective.settings)
    stream = read_stream(store)
    if stream is not None:
        extend(effective, place, stream)
    daemon = make_daemon(effective, place, tell=tell_waits)
    return asyncio.run(_until_ended(daemon, store, asked, on_progress))


async def _until_ended(
    daemon: Daemon, store: QdrantState, asked: Sequence[Request], on_progress: OnProgress
) -> list[Request]:
    given_up = threading.Event()
    running = asyncio.ensure_future(daemon.run())
    waiting = asyncio.ensure_future(
        asyncio.to_thread(
            requests.await_outcomes,
            store,
            asked,
            on_progress=on_progress,
            sleep=sleep_until(given_up),
        )
    )
    try:
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            daemon.stop()
        await running
        return await waiting
    finally:
        given_up.set()
        running.cancel()


def _tell_watched(who: str) -> None:
    note(f"looking whether {who} is still alive")
