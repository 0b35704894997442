"""Patches of one window -> a target, each of them durable or refused in the end.

Where the target can prove it afterwards, all of them go out as one group that is not waited for one by
one (`bridge/qdrant/patch_group.py`). If the proof fails, whatever the reason, they are sent again, each
request waited for, by the usual rules: an outage is retried, a limiter gets halves, a refused request
is bisected until the bad patches are alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple, Protocol

from bridge.errors import BridgeError, RateLimited, Rejected, Unreachable, Unstorable
from bridge.plan import Patch
from bridge.qdrant.target import PatchGroup
from bridge.retry import Retry
from sync.tables import Row, StreamTable

REQUESTS_AT_ONCE = 4
PATCHES_IN_GROUP = 32
"""From here on the four requests that prove a group cost less than they save."""


class Patched(NamedTuple):
    """A patch, and the row that it came from."""

    patch: Patch
    table: StreamTable
    row: Row


Part = Sequence[Patched]
"""The patches of one request."""


class Patches(Protocol):
    """What is needed of a `target.Target`."""

    def patch(self, collection: str, patches: Sequence[Patch]) -> None: ...
    def patch_group(self, collection: str) -> PatchGroup | None: ...


@dataclass(slots=True)
class Outcome:
    """What became of them. `refused`: with the reason."""

    written: list[Patched] = field(default_factory=list)
    refused: list[tuple[Patched, str]] = field(default_factory=list)

    def plus(self, other: Outcome) -> Outcome:
        """Both."""
        return Outcome(self.written + other.written, self.refused + other.refused)


class PatchWriter:
    """Writes patches of distinct points."""

    def __init__(self, target: Patches, *, retry: Retry) -> None:
        self._target = target
        self._retry = retry

    def write(self, collection: str, parts: Iterator[list[Patched]], *, expected: int) -> Outcome:
        """See all of them through. `expected`: about how many there are."""
        outcome = Outcome()
        if expected >= PATCHES_IN_GROUP:
            parts = self._together(collection, parts, outcome)
        with ThreadPoolExecutor(REQUESTS_AT_ONCE, "patch") as pool:
            # A request goes out while the rows of the next are converted.
            begun = [pool.submit(self._some, collection, part) for part in parts]
        for one in begun:
            outcome = outcome.plus(one.result())
        return outcome

    def _together(
        self, collection: str, parts: Iterator[list[Patched]], outcome: Outcome
    ) -> Iterator[list[Patched]]:
        """Send them as a group; gives back what is still to be sent: nothing, or all."""
        try:
            group = self._target.patch_group(collection)
        except Unreachable:
            return parts
        if group is None:
            return parts
        sent: list[list[Patched]] = []
        try:
            for part in parts:
                sent.append(part)
                group.add([one.patch for one in part])
            group.confirm()
        except BridgeError as error:
            group.abandon()
            if isinstance(error, Unreachable | Rejected | Unstorable):
                return chain(sent, parts)
            raise
        outcome.written += chain.from_iterable(sent)
        return iter(())

    def _some(self, collection: str, part: Part, limit: RateLimited | None = None) -> Outcome:
        """See these through; a `limit` that was just met is waited for first."""
        patches = [one.patch for one in part]
        limits = [] if limit is None else [limit]
        try:
            self._retry.call(lambda: self._once(collection, patches, limits))
        except _TooLarge as error:
            return self._halves(collection, part, error.limit)
        except (Rejected, Unstorable) as error:
            if len(part) > 1:
                return self._halves(collection, part)
            return Outcome(refused=[(part[0], error.message)])
        return Outcome(written=list(part))

    def _halves(self, collection: str, part: Part, limit: RateLimited | None = None) -> Outcome:
        half = len(part) // 2
        return self._some(collection, part[:half], limit).plus(self._some(collection, part[half:]))

    def _once(self, collection: str, patches: Sequence[Patch], limits: list[RateLimited]) -> None:
        if limits:
            raise limits.pop()
        try:
            self._target.patch(collection, patches)
        except RateLimited as error:
            if len(patches) > 1:
                raise _TooLarge(error) from None
            raise


class _TooLarge(Exception):
    """The server's limiter takes no batch of this size; smaller ones wait as it says."""

    def __init__(self, limit: RateLimited) -> None:
        self.limit = limit
