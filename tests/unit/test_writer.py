"""The writer against a scripted target: every point ends durable or set aside, each counted once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BridgeError, RateLimited, Rejected, StopError, Unreachable, Unstorable
from bridge.plan import Point
from bridge.retry import FOR_EVER, Retry
from bridge.writer import Writer

Outcome = Callable[[], BridgeError | None]


@dataclass(slots=True)
class FakeTarget:
    """Takes requests (ids as text), and fails as the script says; once it is used up, it works.

    `bad` ids are rejected always. `lost`: the request is applied although it fails.
    """

    script: list[BridgeError | None] = field(default_factory=list)
    bad: frozenset[int] = frozenset()
    capacity: int | None = None
    lost: bool = False
    now: float = 0.0
    events: list[str] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    stored: Counter[int] = field(default_factory=Counter)

    def send(self, request: bytes) -> Answer:
        self.events.append(f"send {request.decode()}")
        ids = [int(word) for word in request.split()]
        error = self._outcome(ids)
        if error is None or (self.lost and not isinstance(error, Rejected)):
            self.stored.update(ids)
        return Answer(self, request.decode(), error)

    def sleep(self, seconds: float) -> None:
        self.events.append("sleep")
        self.slept.append(seconds)
        self.now += seconds

    def _outcome(self, ids: Sequence[int]) -> BridgeError | None:
        error = self.script.pop(0) if self.script else None
        if error is not None:
            return error
        if self.bad.intersection(ids):
            return Rejected("wrong input")
        if self.capacity is not None and len(ids) > self.capacity:
            return RateLimited("larger than the whole budget", retry_after_seconds=1.0)
        return None

    @property
    def sent(self) -> list[str]:
        """The requests, in the order in which they were sent."""
        return [event.removeprefix("send ") for event in self.events if event.startswith("send")]


@dataclass(frozen=True, slots=True)
class Answer:
    """A request in flight."""

    target: FakeTarget
    request: str
    error: BridgeError | None

    def result(self) -> None:
        self.target.events.append(f"settle {self.request}")
        if self.error is not None:
            raise self.error


def encode(points: Sequence[Point]) -> bytes:
    """Ids as text; a payload `unstorable` has no encoding."""
    for point in points:
        if "unstorable" in point.payload:
            raise Unstorable("a value has no payload form")
    return " ".join(str(point.id) for point in points).encode()


def writer(
    target: FakeTarget,
    *,
    in_flight: int = 4,
    refused_limit: int = 1000,
    patience_seconds: float = FOR_EVER,
) -> Writer[Point]:
    return Writer(
        encode=encode,
        send=target.send,
        retry=Retry(
            patience_seconds=patience_seconds,
            clock=lambda: target.now,
            sleep=target.sleep,
            draw=lambda: 1.0,
        ),
        in_flight=in_flight,
        refused_limit=refused_limit,
    )


def points(ids: Iterable[int], *, unstorable: Iterable[int] = ()) -> list[Point]:
    flawed = set(unstorable)
    return [Point(number, {}, {"unstorable": 1} if number in flawed else {}) for number in ids]


def refused_ids(write: Writer[Point]) -> list[int | str]:
    return [refused.point.id for refused in write.take_refused()]


# --- requests in flight ---------------------------------------------------------------------------


def test_requests_are_sent_without_waiting_until_enough_are_in_flight() -> None:
    target = FakeTarget()
    write = writer(target, in_flight=2)
    for number in (1, 2, 3):
        write.write(points([number]))
    assert target.events == ["send 1", "send 2", "settle 1", "send 3"]
    assert write.written == 1
    write.drain()
    assert target.events[4:] == ["settle 2", "settle 3"]
    assert write.written == 3


def test_nothing_is_sent_for_nothing() -> None:
    target = FakeTarget()
    write = writer(target)
    write.write([])
    write.drain()
    assert target.events == []
    assert (write.written, write.refused) == (0, 0)


def test_drain_leaves_nothing_in_flight_and_may_be_called_again() -> None:
    target = FakeTarget()
    write = writer(target)
    write.write(points([1, 2]))
    write.drain()
    write.drain()
    assert target.events == ["send 1 2", "settle 1 2"]


# --- retry ----------------------------------------------------------------------------------------


def test_what_is_abandoned_is_awaited_whatever_becomes_of_it() -> None:
    target = FakeTarget([None, Unreachable("away"), Rejected("bad"), StopError("gone", code="X")])
    write = writer(target)
    for number in (1, 2, 3, 4):
        write.write(points([number]))
    write.abandon()
    assert target.events[4:] == ["settle 1", "settle 2", "settle 3", "settle 4"]
    write.drain()
    assert (write.written, len(target.events)) == (0, 8)


def test_an_outage_sends_the_same_bytes_again_after_a_wait() -> None:
    target = FakeTarget(script=[Unreachable("gone"), Unreachable("gone")])
    write = writer(target)
    write.write(points([1, 2]))
    write.drain()
    assert target.events == [
        "send 1 2",
        "settle 1 2",
        "sleep",
        "send 1 2",
        "settle 1 2",
        "sleep",
        "send 1 2",
        "settle 1 2",
    ]
    assert target.slept == [0.1, 0.2]
    assert write.written == 2


def test_a_lost_answer_counts_its_points_once() -> None:
    target = FakeTarget(script=[Unreachable("response lost")], lost=True)
    write = writer(target)
    write.write(points([1, 2]))
    write.drain()
    assert target.stored == {1: 2, 2: 2}
    assert write.written == 2


def test_requests_behind_a_failed_one_are_settled_all_the_same() -> None:
    target = FakeTarget(script=[Unreachable("gone"), None, Unreachable("gone")])
    write = writer(target)
    for number in (1, 2, 3):
        write.write(points([number]))
    write.drain()
    assert target.stored == {1: 1, 2: 1, 3: 1}
    assert write.written == 3


def test_patience_that_ends_raises_the_last_error() -> None:
    target = FakeTarget(script=[Unreachable(f"failure {number}") for number in range(100)])
    write = writer(target, patience_seconds=3.0)
    write.write(points([1]))
    with pytest.raises(Unreachable, match="failure"):
        write.drain()
    assert target.now <= 3.0
    assert write.written == 0


def test_a_gone_collection_stops_at_once() -> None:
    target = FakeTarget(script=[StopError("gone", code="TARGET_CHANGED")])
    write = writer(target)
    write.write(points([1]))
    with pytest.raises(StopError):
        write.drain()
    assert target.slept == []


# --- rate limits ----------------------------------------------------------------------------------


def test_a_rate_limit_is_waited_for_and_the_request_goes_whole() -> None:
    target = FakeTarget(script=[RateLimited("slower", retry_after_seconds=5.0)])
    write = writer(target)
    write.write(points([1, 2, 3, 4]))
    write.drain()
    assert target.sent == ["1 2 3 4", "1 2 3 4"]
    assert target.slept == [pytest.approx(5.5)]
    assert write.written == 4


def test_a_request_that_is_refused_for_its_size_again_goes_on_in_halves() -> None:
    target = FakeTarget(capacity=2)
    write = writer(target)
    write.write(points(range(8)))
    write.drain()
    assert write.written == 8
    assert target.stored == dict.fromkeys(range(8), 1)
    assert {len(request.split()) for request in target.sent[-1:]} == {2}


def test_every_rate_limit_is_waited_for_before_anything_else_is_sent() -> None:
    target = FakeTarget(capacity=1)
    write = writer(target, in_flight=1)
    write.write(points(range(4)))
    write.drain()
    limited = 0
    for position, event in enumerate(target.events):
        if event.startswith("settle") and len(event.split()) > 2:
            limited += 1
            assert target.events[position + 1] == "sleep"
    assert limited > 2
    assert write.written == 4


def test_a_single_point_that_is_rate_limited_waits_until_it_may() -> None:
    target = FakeTarget(script=[RateLimited("slower", retry_after_seconds=1.0)] * 5)
    write = writer(target)
    write.write(points([1]))
    write.drain()
    assert target.sent == ["1"] * 6
    assert write.written == 1


def test_an_outage_then_a_limit_then_a_rejection() -> None:
    target = FakeTarget(script=[Unreachable("gone"), RateLimited("slower")], bad=frozenset({2, 3}))
    write = writer(target)
    write.write(points([1, 2, 3, 4]))
    write.drain()
    assert refused_ids(write) == [2, 3]
    assert target.stored == {1: 1, 4: 1}
    assert (write.written, write.refused) == (2, 2)


# --- rejected points ------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [[0], [7], [3, 4], [0, 7], [0, 1, 2, 3, 4, 5, 6, 7]])
def test_exactly_the_bad_points_are_set_aside(bad: list[int]) -> None:
    target = FakeTarget(bad=frozenset(bad))
    write = writer(target)
    write.write(points(range(8)))
    write.drain()
    assert refused_ids(write) == bad
    assert target.stored == {number: 1 for number in range(8) if number not in bad}
    assert (write.written, write.refused) == (8 - len(bad), len(bad))


def test_one_bad_point_among_many_costs_few_requests() -> None:
    target = FakeTarget(bad=frozenset({700}))
    write = writer(target)
    write.write(points(range(1024)))
    write.drain()
    assert len(target.sent) == 21  # two for each of the ten halvings, and the first
    assert write.written == 1023


def test_a_refusal_gives_the_point_and_the_targets_reason() -> None:
    target = FakeTarget(bad=frozenset({1}))
    write = writer(target)
    write.write(points([1]))
    write.drain()
    (refused,) = write.take_refused()
    assert refused.point == Point(1, {}, {})
    assert refused.reason == "wrong input"
    assert write.take_refused() == []
    assert write.refused == 1


def test_an_outage_while_bisecting_loses_nothing() -> None:
    outage = Unreachable("gone")
    script: list[BridgeError | None] = [
        Rejected("no"),
        outage,
        None,
        outage,
        outage,
        Rejected("no"),
        outage,
    ]
    target = FakeTarget(script=script, bad=frozenset({6}))
    write = writer(target)
    write.write(points(range(8)))
    write.drain()
    assert refused_ids(write) == [6]
    assert target.stored == {number: 1 for number in range(8) if number != 6}
    assert write.written == 7


# --- points that have no encoding -----------------------------------------------------------------


def test_a_point_without_an_encoding_is_set_aside_and_the_others_are_written() -> None:
    target = FakeTarget()
    write = writer(target)
    write.write(points([1, 2, 3], unstorable=[2]))
    write.drain()
    (refused,) = write.take_refused()
    assert (refused.point.id, refused.reason) == (2, "a value has no payload form")
    assert target.sent == ["1 3"]
    assert (write.written, write.refused) == (2, 1)


def test_a_batch_of_nothing_but_such_points_sends_nothing() -> None:
    target = FakeTarget()
    write = writer(target)
    write.write(points([1, 2], unstorable=[1, 2]))
    write.drain()
    assert target.sent == []
    assert (write.written, write.refused) == (0, 2)


# --- the limit ------------------------------------------------------------------------------------


def test_more_refusals_than_the_limit_stop_the_run() -> None:
    target = FakeTarget(bad=frozenset(range(10)))
    write = writer(target, refused_limit=3)
    write.write(points(range(10)))
    with pytest.raises(StopError) as caught:
        write.drain()
    assert caught.value.code == "DEAD_LETTERS"
    assert "wrong input" in caught.value.message
    assert write.refused == 4


def test_as_many_refusals_as_the_limit_do_not() -> None:
    target = FakeTarget(bad=frozenset({1, 2, 3}))
    write = writer(target, refused_limit=3)
    write.write(points(range(10)))
    write.drain()
    assert (write.written, write.refused) == (7, 3)


def test_points_without_an_encoding_count_towards_the_limit() -> None:
    write = writer(FakeTarget(), refused_limit=0)
    with pytest.raises(StopError, match="refused"):
        write.write(points([1], unstorable=[1]))


# --- whatever happens -----------------------------------------------------------------------------

transient = st.sampled_from(
    [
        Unreachable("gone"),
        RateLimited("slower"),
        RateLimited("slower", retry_after_seconds=2.0),
        None,
    ]
)


@given(
    batches=st.lists(st.integers(0, 12), max_size=6),
    script=st.lists(transient, max_size=40),
    bad=st.frozensets(st.integers(0, 40), max_size=8),
    unstorable=st.frozensets(st.integers(0, 40), max_size=4),
    capacity=st.one_of(st.none(), st.integers(1, 6)),
    lost=st.booleans(),
    in_flight=st.integers(1, 5),
)
def test_every_good_point_is_stored_and_every_bad_one_set_aside(
    batches: list[int],
    script: list[BridgeError | None],
    bad: frozenset[int],
    unstorable: frozenset[int],
    capacity: int | None,
    lost: bool,
    in_flight: int,
) -> None:
    target = FakeTarget(script=list(script), bad=bad, capacity=capacity, lost=lost)
    write = writer(target, in_flight=in_flight)
    first = 0
    for size in batches:
        write.write(points(range(first, first + size), unstorable=unstorable))
        first += size
    write.drain()
    everything = set(range(first))
    flawed = everything & (bad | unstorable)
    assert sorted(map(int, refused_ids(write))) == sorted(flawed)
    assert write.refused == len(flawed)
    assert write.written == len(everything - flawed)
    assert set(target.stored) - flawed == everything - flawed
    if not lost:
        assert all(times == 1 for times in target.stored.values())
