"""Where the stream of a pipeline is, for whoever waits until it has passed a position."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from bridge.errors import Unreachable
from bridge.positions import Lsn
from bridge.state import StateStore
from bridge.status import read_stream

STALLED_SECONDS = 120.0
"""So long a checkpoint may stand still, while it is waited for, before the comparison gives up."""
_POLL_SECONDS = 0.05


class Follower(Protocol):
    """What follows the source, or does not."""

    @property
    def follows(self) -> bool:
        """Whether what differs now may be on its way."""

    def await_passed(self, position: Lsn) -> None:
        """Return once everything before the position has been applied."""


class NoStream:
    """Nothing follows the source: what is not in the target will not come."""

    follows = False

    def await_passed(self, position: Lsn) -> None:
        """Nothing to wait for."""


class Stream:
    """The pipeline's daemon, by the checkpoint that it saves.

    `Unreachable` if the checkpoint stands still for `stalled_seconds`, or the daemon has stopped.
    """

    def __init__(
        self,
        store: StateStore,
        *,
        stalled_seconds: float = STALLED_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self.follows = True
        self._stalled_seconds = stalled_seconds
        self._clock = clock
        self._sleep = sleep

    def await_passed(self, position: Lsn) -> None:
        moved_at, last = self._clock(), None
        while True:
            stream = read_stream(self._store)
            if stream is not None and stream.checkpoint >= position:
                return
            if stream is not None and stream.stop is not None:
                raise Unreachable(
                    f"the daemon has stopped ({stream.stop.code}: {stream.stop.message}), so that "
                    "changes under way do not arrive",
                    hint=stream.stop.hint,
                )
            checkpoint = None if stream is None else stream.checkpoint
            now = self._clock()
            if checkpoint != last:
                moved_at, last = now, checkpoint
            elif now - moved_at > self._stalled_seconds:
                raise Unreachable(
                    f"the stream has stood still at {checkpoint} for {self._stalled_seconds:g} s, "
                    f"before {position}",
                    hint="is the daemon running, and does it reach Qdrant? see qdrant-bridge status",
                )
            self._sleep(_POLL_SECONDS)
