"""When a failed request is tried again, and for how long.

`decide` is the one function from an error to what is done about it. Waiting is exponential with full
jitter (each wait is uniform between 0 and the doubled ceiling): many workers that failed together
must not come back together. Clock, sleep and randomness are injected.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from bridge.errors import Action, BridgeError, RateLimited, Unreachable

T = TypeVar("T")

FIRST_CEILING_SECONDS = 0.1
LAST_CEILING_SECONDS = 10.0
FOR_EVER = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`action`, and for a retry the seconds to wait before it."""

    action: Action
    wait_seconds: float = 0.0


def decide(error: BridgeError, attempt: int, draw: Callable[[], float] = random.random) -> Decision:
    """What to do about `error` at its `attempt`-th failure in a row (from 1).

    A service that says how long to wait is believed; a little is added at random, so that those who
    were told the same do not all come at that moment.
    """
    if error.action is not Action.RETRY:
        return Decision(action=error.action)
    wait = draw() * ceiling_seconds(attempt)
    if isinstance(error, RateLimited) and error.retry_after_seconds is not None:
        wait = error.retry_after_seconds * (1 + 0.1 * draw())
    return Decision(action=Action.RETRY, wait_seconds=wait)


def ceiling_seconds(attempt: int) -> float:
    """The longest wait after the `attempt`-th failure in a row."""
    return min(LAST_CEILING_SECONDS, FIRST_CEILING_SECONDS * 2.0 ** min(attempt - 1, 30))


@dataclass(slots=True, kw_only=True)
class Retry:
    """Runs an action until it succeeds, its error asks for something else, or patience ends.

    `patience_seconds` counts from the first failure in a row, not from the start: a run of hours may
    meet many short outages. `on_wait` hears of every retry (error, seconds).
    """

    patience_seconds: float = FOR_EVER
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[], float] = random.random
    on_wait: Callable[[BridgeError, float], None] = field(default=lambda error, seconds: None)

    def call(self, action: Callable[[], T]) -> T:
        """The result of `action`; its last error once patience has ended."""
        failing_since: float | None = None
        attempt = 0
        while True:
            try:
                return action()
            except Unreachable as error:
                attempt += 1
                now = self.clock()
                failing_since = now if failing_since is None else failing_since
                wait = decide(error, attempt, self.draw).wait_seconds
                if now - failing_since + wait > self.patience_seconds:
                    raise
                self.on_wait(error, wait)
                self.sleep(wait)
