"""What goes wrong on the Pinecone stand-in, on demand or at random.

    server.faults.add("fetch", refuse(429, retry_after=0.1), nth=3, times=2)
    server.faults.at_random(0.2, seed=7)        # of every request to the data plane

Endpoints are `describe`, `stats`, `namespaces`, `list` and `fetch`. Random faults are of every kind
that has been seen: 429 with and without retry-after, 5xx, a body that ends too early, a connection
that closes without an answer.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

DATA: Final = ("stats", "namespaces", "list", "fetch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What becomes of one request.

    `status` answers with it; `cut` sends that share of the body and closes; `close` closes without
    an answer; `before` is called first, and alone changes nothing of the answer.
    """

    status: int | None = None
    message: str = "injected"
    headers: Sequence[tuple[str, str]] = ()
    cut: float | None = None
    close: bool = False
    body: bytes | None = None
    before: Callable[[], None] | None = None


def refuse(status: int, *, retry_after: float | None = None, message: str = "injected") -> Fault:
    """Answer with an error."""
    headers = () if retry_after is None else (("retry-after", f"{retry_after:g}"),)
    return Fault(status=status, message=message, headers=headers)


def cut(share: float = 0.5) -> Fault:
    """End the body too early."""
    return Fault(cut=share)


def close() -> Fault:
    """Close the connection instead of an answer."""
    return Fault(close=True)


def nonsense(body: bytes = b"<html>gateway</html>") -> Fault:
    """Answer 200 with something that is no JSON."""
    return Fault(body=body)


def hold(event: threading.Event, timeout_seconds: float = 60.0) -> Fault:
    """Answer once the event is set."""
    return Fault(before=lambda: _wait(event, timeout_seconds))


def first(action: Callable[[], object]) -> Fault:
    """Do this before answering: change the index in the middle of a read."""
    return Fault(before=lambda: _ignore(action()))


def _ignore(_result: object) -> None:
    return None


def _wait(event: threading.Event, timeout_seconds: float) -> None:
    if not event.wait(timeout_seconds):
        raise TimeoutError("nobody released the request")


@dataclass(slots=True)
class _Rule:
    endpoint: str
    fault: Fault
    nth: int
    times: int
    seen: int = 0
    fired: threading.Event = field(default_factory=threading.Event)


class Faults:
    """The rules of one server. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []
        self._rate = 0.0
        self._random = random.Random(0)
        self.injected: Counter[str] = Counter()

    def add(self, endpoint: str, fault: Fault, *, nth: int = 1, times: int = 1) -> threading.Event:
        """From the nth request (of those to come) on, so many times; set when first met."""
        rule = _Rule(endpoint, fault, nth, times)
        with self._lock:
            self._rules.append(rule)
        return rule.fired

    def at_random(self, rate: float, *, seed: int) -> None:
        """That share of all requests to the data plane goes wrong."""
        with self._lock:
            self._rate, self._random = rate, random.Random(seed)

    def clear(self) -> None:
        """Everything goes well again."""
        with self._lock:
            self._rules.clear()
            self._rate = 0.0

    def meet(self, endpoint: str) -> Fault | None:
        """The fault of this request, if it has one."""
        with self._lock:
            for rule in self._rules:
                if rule.endpoint != endpoint:
                    continue
                rule.seen += 1
                if rule.nth <= rule.seen < rule.nth + rule.times:
                    rule.fired.set()
                    self.injected[endpoint] += 1
                    return rule.fault
            if endpoint in DATA and self._rate and self._random.random() < self._rate:
                self.injected[endpoint] += 1
                return self._random.choice(_KINDS)
        return None


_KINDS: Final = (
    refuse(429, retry_after=0.01),
    refuse(429),
    refuse(500),
    refuse(502),
    refuse(503, retry_after=0.01),
    refuse(504),
    cut(0.3),
    cut(0.9),
    close(),
)
