"""What a test does to the Qdrant test server: faults to come, and requests that came.

A method is named `Points.Upsert`, `Collections.Get`, `Qdrant.HealthCheck`; a bare name means the
Points service. An `Action` stands between a request and its execution: it may let it through
(`proceed()`), alter the response, or raise a `Status`. Several rules that fit one request are
nested, the first added outermost.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from qdrant_client import grpc as qdrant

Request = Any
Response = Any
Proceed = Callable[[], Response]
Action = Callable[[Request, Proceed, threading.Event], Response]

# How long a delayed request sleeps between two looks at whether the server is stopping.
POLL_SECONDS: Final = 0.02


class Status(Exception):
    """A gRPC status that ends a call. `trailing`: metadata sent with it."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        trailing: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.trailing = trailing


def qualified(method: str) -> str:
    """The method's full name: `Upsert` -> `Points.Upsert`."""
    return method if "." in method else f"Points.{method}"


def fail(code: grpc.StatusCode, message: str) -> Action:
    """Refuse with any status; nothing is applied."""

    def action(request: Request, proceed: Proceed, stopping: threading.Event) -> Response:
        raise Status(code, message)

    return action


def unavailable() -> Action:
    """UNAVAILABLE; nothing is applied."""
    return fail(grpc.StatusCode.UNAVAILABLE, "Shard temporarily unavailable: injected")


def internal() -> Action:
    """INTERNAL; nothing is applied."""
    return fail(grpc.StatusCode.INTERNAL, "Service internal error: injected")


def rate_limited(retry_after_seconds: float | None) -> Action:
    """RESOURCE_EXHAUSTED as strict mode sends it: whole seconds, rounded up, in `retry-after`.

    None: the request alone exceeds the whole budget; the server then sends no `retry-after`.
    """
    message = "Write rate limit exceeded, request larger than the whole budget"
    trailing: tuple[tuple[str, str], ...] = ()
    if retry_after_seconds is not None:
        seconds = str(math.ceil(retry_after_seconds))
        message = (
            "Write rate limit exceeded: Operation requires 1 tokens but only 0.0 were available."
            f" Retry after {seconds}s"
        )
        trailing = (("retry-after", seconds),)

    def action(request: Request, proceed: Proceed, stopping: threading.Event) -> Response:
        raise Status(
            grpc.StatusCode.RESOURCE_EXHAUSTED, f"Rate limiting exceeded: {message}", trailing
        )

    return action


def lost_response() -> Action:
    """Apply the request, then answer UNAVAILABLE."""

    def action(request: Request, proceed: Proceed, stopping: threading.Event) -> Response:
        proceed()
        raise Status(grpc.StatusCode.UNAVAILABLE, "response lost: injected")

    return action


def delay(until: float | threading.Event) -> Action:
    """Hold the request for seconds or until the event is set; a stopping server drops it."""

    def action(request: Request, proceed: Proceed, stopping: threading.Event) -> Response:
        if isinstance(until, threading.Event):
            while not until.wait(POLL_SECONDS) and not stopping.is_set():
                pass
        else:
            stopping.wait(until)
        if stopping.is_set():
            raise Status(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        return proceed()

    return action


def wait_timeout() -> Action:
    """Apply the request, and answer that it was accepted but not seen applied in time."""

    def action(request: Request, proceed: Proceed, stopping: threading.Event) -> Response:
        response = proceed()
        results = (
            response.result
            if isinstance(response, qdrant.UpdateBatchResponse)
            else [response.result]
        )
        for result in results:
            result.status = qdrant.UpdateStatus.WaitTimeout
        return response

    return action


def reject(predicate: Callable[[Request], bool]) -> Action:
    """INVALID_ARGUMENT where the predicate holds for the request; others pass."""

    def action(request: Request, proceed: Proceed, stopping: threading.Event) -> Response:
        if predicate(request):
            raise Status(grpc.StatusCode.INVALID_ARGUMENT, "Wrong input: injected")
        return proceed()

    return action


def contains_point(identifier: int | str) -> Callable[[Request], bool]:
    """A predicate for `reject`: the Upsert or UpdateBatch upserts this point."""

    def predicate(request: Request) -> bool:
        if isinstance(request, qdrant.UpdateBatchPoints):
            lists = [operation.upsert.points for operation in request.operations]
        else:
            lists = [request.points]
        return any(
            identifier in (point.id.num, point.id.uuid)
            and point.id.WhichOneof("point_id_options") is not None
            for points in lists
            for point in points
        )

    return predicate


@dataclass(slots=True, kw_only=True, eq=False)
class Rule:
    """One fault: fires on the `nth` fitting request and the `times - 1` after it (None: for ever).

    `matched` and `fired` count requests.
    """

    method: str
    action: Action
    nth: int = 1
    times: int | None = 1
    collection: str | None = None
    matched: int = 0
    fired: int = 0


@dataclass(slots=True)
class Faults:
    """The rules in force. Thread-safe."""

    _rules: list[Rule] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def add(
        self,
        *,
        method: str,
        action: Action,
        nth: int = 1,
        times: int | None = 1,
        collection: str | None = None,
    ) -> Rule:
        """Add a rule; its counting starts now. `method="*"`: every method."""
        rule = Rule(
            method="*" if method == "*" else qualified(method),
            action=action,
            nth=nth,
            times=times,
            collection=collection,
        )
        with self._changed:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Drop every rule; requests already held by one stay held."""
        with self._changed:
            self._rules.clear()

    def wait_fired(self, rule: Rule, times: int = 1, timeout_seconds: float = 30.0) -> None:
        """Return once the rule has fired so often; TimeoutError if it does not."""
        with self._changed:
            if not self._changed.wait_for(lambda: rule.fired >= times, timeout_seconds):
                raise TimeoutError(f"{rule.method}: fault fired {rule.fired} times, not {times}")

    def run(
        self, method: str, request: Request, execute: Proceed, stopping: threading.Event
    ) -> Response:
        """Execute the request through the rules that fit it."""
        proceed = execute
        for action in reversed(self._due(method, request)):
            proceed = _bind(action, request, proceed, stopping)
        return proceed()

    def _due(self, method: str, request: Request) -> list[Action]:
        due: list[Action] = []
        with self._changed:
            for rule in self._rules:
                if rule.method not in ("*", method):
                    continue
                if rule.collection not in (None, getattr(request, "collection_name", None)):
                    continue
                rule.matched += 1
                over = rule.times is not None and rule.matched >= rule.nth + rule.times
                if rule.matched >= rule.nth and not over:
                    rule.fired += 1
                    due.append(rule.action)
            self._changed.notify_all()
        return due


def _bind(action: Action, request: Request, proceed: Proceed, stop: threading.Event) -> Proceed:
    return lambda: action(request, proceed, stop)


@dataclass(slots=True)
class Requests:
    """Requests that arrived, counted before any fault. `recorder` is called with each of them."""

    recorder: Callable[[str, Request], None] | None = None
    _arrived: Counter[str] = field(default_factory=Counter)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def count(self, method: str) -> int:
        """How many requests of this method arrived."""
        with self._changed:
            return self._arrived[qualified(method)]

    def counts(self) -> dict[str, int]:
        """All counters, by full method name."""
        with self._changed:
            return dict(self._arrived)

    def reset(self) -> None:
        """Counters back to nought."""
        with self._changed:
            self._arrived.clear()

    def wait_for(self, method: str, count: int, timeout_seconds: float = 30.0) -> None:
        """Return once `count` requests of this method have arrived; TimeoutError if they do not."""
        name = qualified(method)
        with self._changed:
            if not self._changed.wait_for(lambda: self._arrived[name] >= count, timeout_seconds):
                raise TimeoutError(f"{name}: {self._arrived[name]} requests arrived, not {count}")

    def arrive(self, method: str, request: Request) -> None:
        """Count a request."""
        if self.recorder is not None:
            self.recorder(method, request)
        with self._changed:
            self._arrived[method] += 1
            self._changed.notify_all()
