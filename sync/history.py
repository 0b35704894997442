"""What the status page draws: the last minutes, a point every other second. Pure; the times are given.

Nothing of it is stored: after a restart it begins anew, and Prometheus has what was before.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

MINUTES_SHOWN: Final = 10
SECONDS_BETWEEN: Final = 2
_POINTS: Final = MINUTES_SHOWN * 60 // SECONDS_BETWEEN
_RATE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One point. `changes` and `rows` are sums since the process began; None is what was not known."""

    at: float
    lag_seconds: float | None
    lag_bytes: int | None
    changes: int
    rows: int


class History:
    """The moments of the last ten minutes, oldest first."""

    def __init__(self) -> None:
        self._moments: deque[Moment] = deque(maxlen=_POINTS)

    def add(self, moment: Moment) -> bool:
        """Keep it if the last one is old enough; whether it was kept."""
        if self._moments and moment.at - self._moments[-1].at < SECONDS_BETWEEN * 0.9:
            return False
        self._moments.append(moment)
        return True

    def points(self) -> list[list[float | None]]:
        """(seconds, lag in seconds, changes a second since the one before), as the page draws them."""
        told: list[list[float | None]] = []
        for before, now in pairwise([*list(self._moments)[:1], *self._moments]):
            told.append([now.at, now.lag_seconds, _rate(before, now)])
        return told

    def last_point(self) -> list[float | None] | None:
        """The latest of `points`."""
        if not self._moments:
            return None
        now = self._moments[-1]
        before = self._moments[-2] if len(self._moments) > 1 else now
        return [now.at, now.lag_seconds, _rate(before, now)]

    def rate(self) -> float:
        """Changes, or rows while they are copied, a second over the last ten seconds."""
        if len(self._moments) < 2:
            return 0.0
        now = self._moments[-1]
        before = next(m for m in self._moments if now.at - m.at <= _RATE_SECONDS or m is now)
        return _rate(before, now)


def _rate(before: Moment, now: Moment) -> float:
    seconds = now.at - before.at
    if seconds <= 0:
        return 0.0
    done = now.changes - before.changes + now.rows - before.rows
    return round(max(0.0, done / seconds), 1)
