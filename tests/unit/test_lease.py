"""The lease, with a clock, a store and processes of the test's own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest

from bridge.errors import BridgeError, StopError, Unreachable
from bridge.lease import (
    HELD_SECONDS,
    LEASE_SECONDS,
    RENEW_SECONDS,
    Claim,
    Keeper,
    Lease,
    LinuxProcesses,
    held,
)
from bridge.state import Kind, Record


class Store:
    """Records in memory. `fail` is raised by the next write; `lose_answer` applies it first."""

    pipeline = "shop"

    def __init__(self) -> None:
        self.record: dict[str, Any] | None = None
        self.writes = 0
        self.reads = 0
        self.fail: BridgeError | None = None
        self.lose_answer = False

    def get(self, kind: Kind, name: str) -> Record | None:
        self.reads += 1
        return None if self.record is None else dict(self.record)

    def put_new(self, kind: Kind, name: str, record: Record) -> Record:
        self._write(lambda: self._set(self.record or dict(record)))
        assert self.record is not None
        return dict(self.record)

    def put_if(
        self, kind: Kind, name: str, record: Record, *, matching: Mapping[str, str]
    ) -> Record | None:
        def apply() -> None:
            if self.record is not None and all(self.record[k] == v for k, v in matching.items()):
                self.record = dict(record)

        self._write(apply)
        return None if self.record is None else dict(self.record)

    def _set(self, record: dict[str, Any]) -> None:
        self.record = record

    def _write(self, apply: Callable[[], None]) -> None:
        self.writes += 1
        failure, self.fail = self.fail, None
        if failure is None or self.lose_answer:
            apply()
        if failure is not None:
            raise failure


@dataclass
class Machine:
    """A machine's clock and processes."""

    machine: str = "boot-1"
    now: float = 1000.0
    own_started: str = "11"
    running: dict[int, str] = field(default_factory=dict)

    def own(self) -> tuple[str, str, str]:
        return self.machine, "pid:[1]", self.own_started

    def started(self, pid: int) -> str:
        return self.running.get(pid, "")

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def lease(self, store: Store) -> Lease:
        return Lease(store, clock=self.clock, sleep=self.sleep, processes=self)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def machine() -> Machine:
    return Machine()


def foreign(stamp: str = "them/1", **changes: Any) -> dict[str, Any]:
    """A record of another machine's process."""
    record = {
        "holder": "them", "stamp": stamp, "host": "far", "pid": 7, "machine": "boot-2",
        "space": "pid:[1]", "started": "5", "renewed": 0.0,
    }  # fmt: skip
    return {**record, **changes}


def here(**changes: Any) -> dict[str, Any]:
    """A record of another process of this machine."""
    return foreign(host="near", machine="boot-1", renewed=1000.0, **changes)


# --- taking ---------------------------------------------------------------------------------------


def test_nobodys_lease_is_taken_at_once(store: Store, machine: Machine) -> None:
    machine.lease(store).take()
    assert store.record is not None and store.record["machine"] == "boot-1"
    assert machine.now == 1000.0


def test_a_lease_that_was_given_back_is_taken_at_once(store: Store, machine: Machine) -> None:
    first = machine.lease(store)
    first.take()
    first.give()
    machine.lease(store).take()
    assert machine.now == 1000.0


def test_a_live_process_of_this_machine_is_named_at_once(store: Store, machine: Machine) -> None:
    store.record = here()
    machine.running[7] = "5"
    with pytest.raises(StopError, match="process 7 on near runs pipeline shop") as caught:
        machine.lease(store).take()
    assert caught.value.code == "LEASE_HELD"
    assert machine.now == 1000.0


@pytest.mark.parametrize("running", [{}, {7: "6"}], ids=["none", "another one with its PID"])
def test_a_process_of_this_machine_that_is_gone_is_taken_over_at_once(
    store: Store, machine: Machine, running: dict[int, str]
) -> None:
    store.record = here()
    machine.running = running
    machine.lease(store).take()
    assert machine.now == 1000.0


def test_a_process_of_this_machine_that_renews_no_more_is_waited_out(
    store: Store, machine: Machine
) -> None:
    store.record = here() | {"renewed": 1000.0 - LEASE_SECONDS}
    machine.running[7] = "5"
    told: list[str] = []
    machine.lease(store).take(told.append)
    assert told == ["process 7 on near"]
    assert machine.now >= 1000.0 + LEASE_SECONDS


def test_another_machines_lease_is_waited_out_by_our_own_clock(
    store: Store, machine: Machine
) -> None:
    store.record = foreign(renewed=10.0**9)
    machine.lease(store).take()
    assert machine.now >= 1000.0 + LEASE_SECONDS
    assert store.record["host"] != "far"


def test_another_machines_lease_that_is_renewed_is_held(store: Store, machine: Machine) -> None:
    store.record = foreign()

    def sleep(seconds: float) -> None:
        machine.now += seconds
        if machine.now > 1000.0 + RENEW_SECONDS:
            store.record = foreign("them/2")

    lease = Lease(store, clock=machine.clock, sleep=sleep, processes=machine)
    with pytest.raises(StopError, match="process 7 on far"):
        lease.take()
    assert machine.now < 1000.0 + 2 * RENEW_SECONDS


def test_without_knowledge_of_processes_a_lease_is_waited_out(store: Store) -> None:
    machine = Machine(machine="")
    store.record = foreign(machine="")
    machine.lease(store).take()
    assert machine.now >= 1000.0 + LEASE_SECONDS


def test_a_holder_that_renews_at_the_last_moment_keeps_it(store: Store, machine: Machine) -> None:
    """What was waited for is the record as it was: one that changed since is not replaced."""
    store.record = foreign()
    honest = store.put_if
    answers = iter([foreign("them/2")])

    def late(kind: Kind, name: str, record: Record, *, matching: Mapping[str, str]) -> Any:
        renewed = next(answers, None)
        if renewed is not None:
            store.record = renewed
        return honest(kind, name, record, matching=matching)

    store.put_if = late  # type: ignore[method-assign]
    waited: list[str] = []
    machine.lease(store).take(waited.append)
    assert len(waited) == 2
    assert machine.now >= 1000.0 + 2 * LEASE_SECONDS


def test_an_answer_that_was_lost_does_not_lock_us_out(store: Store, machine: Machine) -> None:
    lease = machine.lease(store)
    store.fail, store.lose_answer = Unreachable("lost"), True
    with pytest.raises(Unreachable):
        lease.take()
    lease.take()
    assert machine.now == 1000.0
    lease.require()


def test_looking_takes_nothing(store: Store, machine: Machine) -> None:
    machine.lease(store).require_takeable()
    store.record = here()
    machine.lease(store).require_takeable()
    machine.running[7] = "5"
    with pytest.raises(StopError, match="process 7"):
        machine.lease(store).require_takeable()
    assert store.writes == 0


# --- holding --------------------------------------------------------------------------------------


def test_within_its_time_nobody_is_asked(store: Store, machine: Machine) -> None:
    lease = machine.lease(store)
    lease.take()
    store.reads = store.writes = 0
    machine.now += HELD_SECONDS - 0.01
    lease.require()
    assert (store.reads, store.writes) == (0, 0)


def test_past_its_time_the_holder_asks_and_goes_on(store: Store, machine: Machine) -> None:
    lease = machine.lease(store)
    lease.take()
    machine.now += 3600
    lease.require()
    assert store.record is not None and store.record["renewed"] == machine.now


def test_a_process_that_was_taken_over_stops_before_its_next_write(
    store: Store, machine: Machine
) -> None:
    lease = machine.lease(store)
    lease.take()
    machine.now += LEASE_SECONDS + 1
    store.record = foreign()
    for _ in range(2):
        with pytest.raises(StopError, match="process 7 on far holds it now") as caught:
            lease.require()
        assert caught.value.code == "LEASE_LOST"
    assert store.record == foreign()


@pytest.mark.parametrize("given_back", [True, False])
def test_one_who_came_and_went_meanwhile_counts_as_well(
    store: Store, machine: Machine, given_back: bool
) -> None:
    lease = machine.lease(store)
    lease.take()
    machine.now += LEASE_SECONDS + 1
    store.record = foreign(holder="") if given_back else None
    with pytest.raises(StopError, match="nobody holds it now"):
        lease.require()


def test_while_the_target_is_away_past_the_time_nothing_is_written(
    store: Store, machine: Machine
) -> None:
    lease = machine.lease(store)
    lease.take()
    machine.now += HELD_SECONDS
    store.fail = Unreachable("away")
    with pytest.raises(Unreachable):
        lease.require()
    lease.require()


def test_time_counts_from_before_the_request(store: Store, machine: Machine) -> None:
    lease = machine.lease(store)
    honest = store.put_new

    def slow(kind: Kind, name: str, record: Record) -> Record:
        machine.now += 5
        return honest(kind, name, record)

    store.put_new = slow  # type: ignore[method-assign]
    lease.take()
    store.writes = 0
    machine.now += HELD_SECONDS - 5
    lease.require()
    assert store.writes == 1


def test_a_holder_stops_counting_before_a_waiter_starts_writing() -> None:
    assert HELD_SECONDS < LEASE_SECONDS
    assert RENEW_SECONDS * 2 < HELD_SECONDS


def test_giving_back_what_another_one_holds_changes_nothing(store: Store, machine: Machine) -> None:
    lease = machine.lease(store)
    lease.take()
    store.record = foreign()
    lease.give()
    assert store.record == foreign()


def test_the_keeper_renews_and_tells_of_the_loss(store: Store, machine: Machine) -> None:
    lease = machine.lease(store)
    lease.take()
    lost = threading.Event()
    errors: list[BridgeError] = []

    def hear(error: BridgeError) -> None:
        errors.append(error)
        lost.set()

    store.fail = Unreachable("an outage is no loss")
    machine.now += 1
    with Keeper(lease, on_lost=hear, seconds=0.01):
        while store.record is None or store.record["renewed"] != machine.now:
            assert not lost.wait(0.01)
        store.record = foreign()
        machine.now += 1
        assert lost.wait(10)
    assert errors[0].code == "LEASE_LOST"


def test_it_is_given_back_however_the_work_ends(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), held(store):
        assert store.record is not None and store.record["holder"]
        raise ZeroDivisionError
    assert store.record is not None and store.record["holder"] == ""


def test_this_process_is_told_from_others() -> None:
    processes = LinuxProcesses()
    assert processes.started(os.getpid()) == processes.own()[2]
    assert processes.started(2**22 + 1) == ""


def test_a_record_comes_back_whole() -> None:
    claim = Claim(holder="a", stamp="a/1", host="h", pid=1)
    assert Claim.from_record(asdict(claim)) == claim
