"""Points -> a target, several requests at a time, until each point is durable or a dead letter.

The keys of everything in flight are distinct (a backfill reads each row once; a window of changes is
coalesced), so requests may overtake each other.

What happens to a request that failed: `Unreachable` is sent again, the same, after a wait;
`RateLimited` waits as long as the server says and goes on in halves, since a request larger than
the limiter's whole budget never passes; `Rejected` is bisected until the bad points are alone, and
those become dead letters. A request whose answer was lost is sent again: an upsert changes nothing
the second time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from bridge.errors import BridgeError, RateLimited, Rejected, StopError, Unreachable, Unstorable
from bridge.point_ids import PointId
from bridge.retry import Retry

REQUESTS_IN_FLIGHT = 4


class Pending(Protocol):
    """A request in flight."""

    def result(self) -> None:
        """Wait until its points are durable; raises what it failed with."""


class Identified(Protocol):
    """What the writer knows of a point, whatever form it is in."""

    @property
    def id(self) -> PointId:
        """Its id."""


Written = TypeVar("Written", bound=Identified)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Generic[Written]):
    """A point that the target does not take, or that no request can hold."""

    point: Written
    reason: str


@dataclass(slots=True, kw_only=True)
class Writer(Generic[Written]):
    """Writes batches of points. `send` begins a request, `encode` makes one; see the module.

    `written` and `refused` count points as requests settle; `drain` waits for the rest. `refused_limit`
    bounds how much may be set aside before the run stops: when every point is refused, the cause
    is not in the points.
    """

    encode: Callable[[Sequence[Written]], bytes]
    send: Callable[[bytes], Pending]
    retry: Retry
    in_flight: int = REQUESTS_IN_FLIGHT
    refused_limit: int = 1000
    written: int = 0
    refused: int = 0
    _set_aside: list[Refused[Written]] = field(default_factory=list)
    _queue: deque[tuple[Sequence[Written], Pending]] = field(default_factory=deque)

    def write(self, points: Sequence[Written]) -> None:
        """Begin to write; waits for an earlier request when enough are in flight."""
        if not points:
            return
        try:
            request = self.encode(points)
        except Unstorable:
            self._write_storable(points)
            return
        while len(self._queue) >= self.in_flight:
            self._settle(*self._queue.popleft())
        self._queue.append((points, self.send(request)))

    def drain(self) -> None:
        """Wait until everything is durable or refused."""
        while self._queue:
            self._settle(*self._queue.popleft())

    def abandon(self) -> None:
        """Wait until nothing is under way, whatever becomes of it: what is given up may not overtake
        what somebody else writes next."""
        while self._queue:
            _points, pending = self._queue.popleft()
            with suppress(BridgeError):
                pending.result()

    def take_refused(self) -> list[Refused[Written]]:
        """What was refused since the last call."""
        taken, self._set_aside = self._set_aside, []
        return taken

    def _settle(self, points: Sequence[Written], pending: Pending | None = None) -> None:
        """See one request through, whatever becomes of it; it is sent first if it is not in flight."""
        try:
            (pending or self.send(self.encode(points))).result()
        except Unreachable as error:
            self._again(points, error)
        except Rejected as error:
            self._bisect(points, error)
        else:
            self.written += len(points)

    def _again(self, points: Sequence[Written], first: Unreachable) -> None:
        """Send until it is settled, waiting before each attempt; `first` is why it failed before."""
        failures: list[Unreachable] = [first]

        def attempt() -> None:
            if failures:
                raise failures.pop()
            try:
                self.send(self.encode(points)).result()
            except RateLimited as error:
                if len(points) > 1:
                    raise _TooLarge(error) from None
                raise

        try:
            self.retry.call(attempt)
        except _TooLarge as large:
            self._halves(points, large.limit)
        except Rejected as error:
            self._bisect(points, error)
        else:
            self.written += len(points)

    def _bisect(self, points: Sequence[Written], error: Rejected) -> None:
        if len(points) == 1:
            self._refuse(points[0], error.message)
        else:
            self._halves(points)

    def _halves(self, points: Sequence[Written], limit: RateLimited | None = None) -> None:
        """Each half by itself; a `limit` just met is waited for first."""
        half = len(points) // 2
        if limit is None:
            self._settle(points[:half])
        else:
            self._again(points[:half], limit)
        self._settle(points[half:])

    def _write_storable(self, points: Sequence[Written]) -> None:
        """Some point cannot be encoded: set those aside, write the others."""
        good: list[Written] = []
        for point in points:
            try:
                self.encode([point])
            except Unstorable as flaw:
                self._refuse(point, flaw.message)
            else:
                good.append(point)
        self.write(good)

    def _refuse(self, point: Written, reason: str) -> None:
        self.refused += 1
        self._set_aside.append(Refused(point=point, reason=reason))
        if self.refused > self.refused_limit:
            raise StopError(
                f"more than {self.refused_limit} points were refused, the last one because: {reason}",
                code="DEAD_LETTERS",
                hint="the cause is hardly in the rows; compare `plan` with the collection",
            )


class _TooLarge(Exception):
    """The server's limiter takes no request of this size; internal to `Writer`."""

    def __init__(self, limit: RateLimited) -> None:
        self.limit = limit
