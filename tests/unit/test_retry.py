"""When a failure is tried again, how long is waited before, and when patience ends."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import (
    Action,
    BridgeError,
    CheckFailed,
    RateLimited,
    Rejected,
    StopError,
    Unreachable,
    Unstorable,
    UsageError,
)
from bridge.retry import FIRST_CEILING_SECONDS, LAST_CEILING_SECONDS, Retry, ceiling_seconds, decide


class Clock:
    """Time that passes only when somebody sleeps, or when an action takes some."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Script:
    """An action that fails in the scripted way, then returns how often it was called."""

    def __init__(self, clock: Clock, errors: Iterable[BridgeError], seconds: float = 0.0) -> None:
        self.clock = clock
        self.errors = list(errors)
        self.seconds = seconds
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        self.clock.now += self.seconds
        if self.errors:
            raise self.errors.pop(0)
        return self.calls


def retry(clock: Clock, patience_seconds: float = float("inf"), draw: float = 1.0) -> Retry:
    return Retry(
        patience_seconds=patience_seconds,
        clock=lambda: clock.now,
        sleep=clock.sleep,
        draw=lambda: draw,
    )


# --- decide ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (Unreachable("gone"), Action.RETRY),
        (RateLimited("slower"), Action.RETRY),
        (Rejected("no"), Action.DEAD_LETTER),
        (Unstorable("no"), Action.DEAD_LETTER),
        (UsageError("no"), Action.STOP),
        (CheckFailed("no"), Action.STOP),
        (StopError("no"), Action.STOP),
    ],
)
def test_the_kind_of_error_decides(error: BridgeError, action: Action) -> None:
    assert decide(error, 1).action is action


def test_only_a_retry_waits() -> None:
    assert decide(Rejected("no"), 5, lambda: 1.0).wait_seconds == 0.0
    assert decide(StopError("no"), 5, lambda: 1.0).wait_seconds == 0.0


def test_the_longest_wait_doubles_up_to_its_limit() -> None:
    ceilings = [ceiling_seconds(attempt) for attempt in range(1, 10)]
    assert ceilings == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert ceiling_seconds(10**9) == LAST_CEILING_SECONDS


@given(st.integers(1, 100), st.floats(0, 1))
def test_a_wait_lies_anywhere_below_its_ceiling(attempt: int, drawn: float) -> None:
    wait = decide(Unreachable("gone"), attempt, lambda: drawn).wait_seconds
    assert wait == drawn * ceiling_seconds(attempt)


@given(st.floats(0, 3600), st.floats(0, 1), st.integers(1, 100))
def test_a_server_that_says_how_long_is_believed(
    seconds: float, drawn: float, attempt: int
) -> None:
    error = RateLimited("slower", retry_after_seconds=seconds)
    wait = decide(error, attempt, lambda: drawn).wait_seconds
    assert seconds <= wait <= 1.1 * seconds


def test_a_limit_without_a_time_waits_as_any_failure() -> None:
    assert decide(RateLimited("slower"), 3, lambda: 0.5).wait_seconds == 0.2


# --- Retry ----------------------------------------------------------------------------------------


def test_success_at_once_waits_for_nothing() -> None:
    clock = Clock()
    assert retry(clock).call(Script(clock, [])) == 1
    assert clock.slept == []


def test_it_goes_on_until_it_succeeds() -> None:
    clock = Clock()
    action = Script(clock, [Unreachable("gone")] * 4)
    assert retry(clock).call(action) == 5
    assert clock.slept == [0.1, 0.2, 0.4, 0.8]


def test_a_rate_limit_in_between_waits_as_long_as_it_says() -> None:
    clock = Clock()
    limited = RateLimited("slower", retry_after_seconds=7.0)
    retry(clock, draw=0.0).call(Script(clock, [Unreachable("gone"), limited]))
    assert clock.slept == [0.0, 7.0]


@pytest.mark.parametrize("error", [Rejected("no"), Unstorable("no"), StopError("no")])
def test_what_another_try_cannot_mend_is_raised_at_once(error: BridgeError) -> None:
    clock = Clock()
    action = Script(clock, [Unreachable("gone"), error])
    with pytest.raises(type(error)) as caught:
        retry(clock).call(action)
    assert caught.value is error
    assert action.calls == 2


def test_foreign_errors_are_not_retried() -> None:
    calls: list[int] = []

    def action() -> None:
        calls.append(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        retry(Clock()).call(action)
    assert calls == [1]


def test_patience_ends_with_the_last_error() -> None:
    clock = Clock()
    errors = [Unreachable(f"failure {number}") for number in range(100)]
    action = Script(clock, errors)
    with pytest.raises(Unreachable) as caught:
        retry(clock, patience_seconds=5.0).call(action)
    assert caught.value.message == f"failure {action.calls - 1}"
    assert 1000.0 < clock.now <= 1005.0


def test_no_wait_goes_beyond_patience() -> None:
    clock = Clock()
    limited = RateLimited("slower", retry_after_seconds=60.0)
    with pytest.raises(RateLimited):
        retry(clock, patience_seconds=30.0).call(Script(clock, [limited]))
    assert clock.slept == []


def test_no_patience_means_one_try() -> None:
    clock = Clock()
    action = Script(clock, [Unreachable("gone")])
    with pytest.raises(Unreachable):
        retry(clock, patience_seconds=0.0).call(action)
    assert action.calls == 1


def test_patience_counts_from_the_first_failure_not_from_the_start() -> None:
    clock = Clock()
    slow = Script(clock, [Unreachable("gone")], seconds=50.0)
    assert retry(clock, patience_seconds=10.0).call(slow) == 2


def test_the_time_that_attempts_take_counts_too() -> None:
    clock = Clock()
    slow = Script(clock, [Unreachable("gone")] * 10, seconds=4.0)
    with pytest.raises(Unreachable):
        retry(clock, patience_seconds=10.0).call(slow)
    assert slow.calls == 4  # failures 0, 4 and 8 seconds after the first were forgiven


def test_each_call_has_its_own_patience() -> None:
    clock = Clock()
    again = retry(clock, patience_seconds=1.0)
    for _ in range(10):
        again.call(Script(clock, [Unreachable("gone")] * 3))
    assert clock.slept == [0.1, 0.2, 0.4] * 10


def test_every_wait_is_told() -> None:
    clock = Clock()
    told: list[tuple[BridgeError, float]] = []
    first, second = Unreachable("gone"), RateLimited("slower", retry_after_seconds=2.0)
    again = Retry(
        clock=lambda: clock.now,
        sleep=clock.sleep,
        draw=lambda: 0.0,
        on_wait=lambda error, seconds: told.append((error, seconds)),
    )
    again.call(Script(clock, [first, second]))
    assert told == [(first, 0.0), (second, 2.0)]


def test_the_first_ceiling_is_short() -> None:
    assert ceiling_seconds(1) == FIRST_CEILING_SECONDS < 1.0
