"""How fast and how much at once: the pace, and the gate that learns."""

from __future__ import annotations

import threading

import pytest

from bridge.errors import RateLimited, Unreachable
from bridge.pinecone.pace import Closed, Gate, Pace


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_the_pace_is_kept_from_the_second_call_on() -> None:
    clock = Clock()
    pace = Pace(50, clock=clock, sleep=clock.sleep)
    for _ in range(101):
        pace.wait()
    # A little is caught up at the beginning.
    assert clock.now - 100.0 == pytest.approx(2.0 - 0.05, abs=0.021)


def test_no_window_of_a_second_has_more_than_the_limit_and_what_is_caught_up() -> None:
    clock = Clock()
    pace = Pace(100, clock=clock, sleep=clock.sleep)
    turns = []
    for number in range(1000):
        pace.wait()
        turns.append(clock.now)
        if number % 97 == 0:
            clock.now += 0.3  # a thread that came late
    for turn in turns:
        assert sum(turn <= other < turn + 1.0 for other in turns) <= 100 + 6


def test_no_limit_is_no_wait() -> None:
    def never(_seconds: float) -> None:
        raise AssertionError

    pace = Pace(0, sleep=never)
    for _ in range(10):
        pace.wait()


def went_well(gate: Gate) -> None:
    with gate.inside():
        pass


def limited(gate: Gate, seconds: float | None = None) -> None:
    with pytest.raises(RateLimited), gate.inside():
        raise RateLimited("429", retry_after_seconds=seconds)


def test_success_adds_one_a_round_up_to_the_most() -> None:
    gate = Gate(start=4, most=6)
    for _ in range(4):
        went_well(gate)
    assert gate.limit == 4  # not quite a whole one yet: each adds less than the one before
    went_well(gate)
    assert gate.limit == 5
    for _ in range(100):
        went_well(gate)
    assert gate.limit == 6


def test_a_429_halves_and_never_below_one() -> None:
    gate = Gate(start=8, most=32)
    for wanted in (4, 2, 1, 1):
        limited(gate)
        assert gate.limit == wanted


def test_several_429s_of_one_round_halve_once() -> None:
    gate = Gate(start=8, most=8)
    with pytest.raises(RateLimited), gate.inside(), gate.inside():
        raise RateLimited("429")
    assert gate.limit == 4


def test_other_failures_teach_nothing() -> None:
    gate = Gate(start=8, most=8)
    with pytest.raises(Unreachable), gate.inside():
        raise Unreachable("503")
    assert gate.limit == 8


def test_nobody_passes_before_the_wait_that_was_asked_for_is_over() -> None:
    clock = Clock()
    gate = Gate(start=8, most=8, clock=clock)
    limited(gate, 30.0)
    passed = threading.Event()

    def go() -> None:
        went_well(gate)
        passed.set()

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    assert not passed.wait(0.05)
    clock.now += 31
    with gate._changed:
        gate._changed.notify_all()
    assert passed.wait(10)
    thread.join()


def test_a_full_gate_lets_the_next_one_in_when_one_leaves() -> None:
    gate = Gate(start=1, most=1)
    entered = threading.Event()

    def go() -> None:
        went_well(gate)
        entered.set()

    with gate.inside():
        thread = threading.Thread(target=go, daemon=True)
        thread.start()
        assert not entered.wait(0.05)
    assert entered.wait(10)
    thread.join()


def test_a_closed_gate_lets_everybody_go() -> None:
    gate = Gate(start=1, most=1)
    let_go = threading.Event()

    def wait() -> None:
        with pytest.raises(Closed), gate.inside():
            pass
        let_go.set()

    with gate.inside():
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        gate.close()
        assert let_go.wait(10)
    thread.join()
