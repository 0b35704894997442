"""One process of the group: what is committed, what is finished, what is abandoned, and when."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pytest

from bridge.errors import StopError, Unreachable
from bridge.kafka_state import PartitionState, read_partitions
from bridge.point_ids import PointId
from sync.debezium_truncate import TruncateNote
from sync.kafka_partition import Partition
from tests.support.debezium_messages import envelope
from tests.support.kafka_fake import PATIENCE_SECONDS, TOPIC, FakeBroker, FakeMember


def row(identity: int) -> dict[str, object]:
    return envelope("c", {"id": identity, "title": "t", "v": [1.0, 2.0, 3.0]}, table="docs")


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
def member(broker: FakeBroker) -> Iterator[FakeMember]:
    with FakeMember(broker, operations=2) as running:
        yield running


class Gate:
    """Writes wait here until it is opened."""

    def __init__(self, member: FakeMember) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()
        member.target.fault = self._wait

    def _wait(self, _method: str, _ids: Sequence[PointId]) -> None:
        self.reached.set()
        assert self._open.wait(PATIENCE_SECONDS)

    def open(self) -> None:
        self._open.set()


def test_an_offset_is_committed_when_its_rows_are_durable_and_not_before(
    broker: FakeBroker, member: FakeMember
) -> None:
    gate = Gate(member)
    broker.rebalance("assigned", 0)
    broker.add(row(1), {"id": 1})
    assert gate.reached.wait(PATIENCE_SECONDS)
    assert not any("@1" in line for line in broker.log)
    gate.open()
    broker.await_log("commit 0@1")
    assert broker.log.index("record 0@1") < broker.log.index("commit 0@1")
    assert 1 in member.target.points


def test_what_is_read_is_finished_and_committed_before_it_is_given_up(
    broker: FakeBroker, member: FakeMember
) -> None:
    broker.rebalance("assigned", 0, 1)
    for number in range(5):
        broker.add(row(number), {"id": number}, partition=number % 2)
    broker.rebalance("revoked", 0)
    committed = broker.committed.get(Partition(TOPIC, 0), 0)
    given_up = broker.log.index("revoked [0]")
    # Whatever was read of it is durable; nothing of it is written afterwards.
    written = {i for i in (0, 2, 4) if i in member.target.points}
    assert len(written) == committed
    broker.add(row(6), {"id": 6}, partition=1)
    broker.await_log("commit 1@3")
    assert not any(line.startswith("commit 0@") for line in broker.log[given_up:])


def test_what_cannot_be_finished_in_time_is_abandoned(
    broker: FakeBroker, member: FakeMember
) -> None:
    away = threading.Event()
    away.set()
    tried = threading.Event()

    def fault(_method: str, _ids: Sequence[PointId]) -> None:
        if away.is_set():
            tried.set()
            raise Unreachable("away")

    member.target.fault = fault
    broker.rebalance("assigned", 0, 1)
    broker.add(row(1), {"id": 1}, partition=0)
    broker.add(row(2), {"id": 2}, partition=1)
    assert tried.wait(PATIENCE_SECONDS)
    broker.rebalance("revoked", 0)
    assert "abandoned" in member.events
    assert broker.committed.get(Partition(TOPIC, 0), 0) == 0
    away.clear()
    # The other one is read again from where it was durable.
    broker.await_log("commit 1@1")
    assert 1 not in member.target.points
    assert 2 in member.target.points


def test_of_lost_partitions_nothing_more_is_written_or_committed(
    broker: FakeBroker, member: FakeMember
) -> None:
    tried = threading.Event()

    def fault(_method: str, _ids: Sequence[PointId]) -> None:
        tried.set()
        raise Unreachable("away")

    member.target.fault = fault
    broker.rebalance("assigned", 0)
    broker.add(row(1), {"id": 1})
    assert tried.wait(PATIENCE_SECONDS)
    broker.rebalance("lost", 0)
    member.target.fault = lambda method, ids: None
    broker.rebalance("assigned", 1)
    broker.add(row(2), {"id": 2}, partition=1)
    broker.await_log("commit 1@1")
    assert 1 not in member.target.points
    assert broker.committed.get(Partition(TOPIC, 0), 0) == 0


def test_an_eager_rebalance_goes_on_from_what_is_durable(
    broker: FakeBroker, member: FakeMember
) -> None:
    broker.rebalance("assigned", 0, 1)
    broker.add(row(1), {"id": 1})
    broker.await_log("commit 0@1")
    # Everything is given up, and some of it comes back.
    broker.rebalance("revoked", 0, 1)
    broker.add(row(2), {"id": 2})
    broker.rebalance("assigned", 0)
    broker.await_log("commit 0@2")
    assert broker.log.count("start 0@0") == 1
    assert "start 0@1" in broker.log
    assert set(member.target.points) == {1, 2}


def test_partitions_wait_while_writing_is_behind(broker: FakeBroker, member: FakeMember) -> None:
    gate = Gate(member)
    broker.rebalance("assigned", 0)
    for number in range(40):
        broker.add(row(number), {"id": number})
    broker.await_log("pause")
    gate.open()
    broker.await_log("commit 0@40")
    assert "resume" in broker.log
    assert len(member.target.points) == 40


def test_a_record_that_names_another_owner_ends_the_session(
    broker: FakeBroker, member: FakeMember
) -> None:
    broker.rebalance("assigned", 0)
    name = f"partition/{TOPIC}/0"
    member.store.put("stream", name, {**member.store.get("stream", name), "owner": "another"})
    broker.add(row(1), {"id": 1})
    broker.await_log("closed")
    assert broker.committed.get(Partition(TOPIC, 0), 0) == 0


def test_the_end_is_told_and_committed(broker: FakeBroker) -> None:
    with FakeMember(broker) as member:
        broker.rebalance("assigned", 0)
        broker.add(row(1), {"id": 1})
        broker.await_log("commit 0@1")
    (state,) = read_partitions(member.store)
    assert (state.phase, state.offset) == ("stopped", 1)
    assert broker.log[-1] == "closed"


def test_another_number_of_partitions_stops_it(broker: FakeBroker) -> None:
    member = FakeMember(broker)
    broker.partitions = 3
    broker.note("subscribed")
    with member:
        error = member.ended()
    assert isinstance(error, StopError)
    assert error.code == "PARTITIONS_CHANGED"
    assert member.store.get("stream", "kafka")["stop"]["code"] == "PARTITIONS_CHANGED"


def test_what_a_message_leaves_open_is_set_aside_where_there_is_no_postgres(
    broker: FakeBroker, member: FakeMember
) -> None:
    broker.rebalance("assigned", 0)
    broker.add(row(1), {"id": 1})
    broker.await_log("commit 0@1")
    update = envelope("u", {"id": 1, "title": "new", "v": None}, table="docs")
    broker.add(update, {"id": 1})
    broker.await_log("commit 0@2")
    assert member.target.payload(1)["title"] == "t"
    assert member.target.numbers(1) == [1.0, 2.0, 3.0]
    letters = dict(member.store.records("dead_letter"))
    assert set(letters) == {"public.docs/1"}
    # The row's next whole change supersedes it.
    broker.add(row(1), {"id": 1})
    broker.await_log("commit 0@3")
    assert not dict(member.store.records("dead_letter"))


def test_a_truncate_among_several_partitions_stops_without_postgres(
    broker: FakeBroker,
) -> None:
    with FakeMember(broker) as member:
        broker.rebalance("assigned", 0, 1)
        broker.add(envelope("t", table="docs"), None)
        error = member.ended()
    assert isinstance(error, StopError)
    assert error.code == "TRUNCATE_UNORDERED"


def test_changes_of_another_table_stop_it(broker: FakeBroker) -> None:
    with FakeMember(broker) as member:
        broker.rebalance("assigned", 0)
        broker.add(envelope("c", {"id": 1}, table="do_cs"), {"id": 1})
        error = member.ended()
    assert isinstance(error, StopError)
    assert error.code == "TOPIC_SHARED"


def test_while_the_state_is_away_the_group_is_not_left(
    broker: FakeBroker, member: FakeMember
) -> None:
    broker.rebalance("assigned", 0)
    away, put_if = threading.Event(), member.store.put_if
    away.set()

    def fails(*arguments: Any, **more: Any) -> Any:
        if away.is_set():
            broker.note("not stored")
            raise Unreachable("away")
        return put_if(*arguments, **more)

    member.store.put_if = fails  # type: ignore[method-assign]
    broker.add(row(1), {"id": 1})
    broker.await_log("not stored")
    assert broker.committed.get(Partition(TOPIC, 0), 0) == 0
    away.clear()
    broker.await_log("commit 0@1")
    assert "closed" not in broker.log


def test_what_is_assigned_while_writing_is_behind_waits_too(
    broker: FakeBroker, member: FakeMember
) -> None:
    gate = Gate(member)
    broker.rebalance("assigned", 0)
    for number in range(40):
        broker.add(row(number), {"id": number})
    broker.await_log("pause")
    for number in range(100, 160):
        broker.add(row(number), {"id": number}, partition=1)
    broker.rebalance("assigned", 1)
    broker.await_log("start 1@0")
    # A poll with its partition paused, and then some.
    broker.await_count("pause", broker.log.count("pause") + 3)
    assert broker.member is not None
    assert broker.member.place(1) == 0
    gate.open()
    broker.await_log("commit 1@60")


def test_letters_of_the_process_before_are_superseded(
    broker: FakeBroker, member: FakeMember
) -> None:
    broker.rebalance("assigned", 0)
    broker.add(row(1), {"id": 1})
    broker.await_log("commit 0@1")
    broker.rebalance("revoked", 0)
    # Another process had the partition meanwhile.
    letter = {"table": "public.docs", "key": "1", "reason": "r", "position": "p", "at": ""}
    member.store.put("dead_letter", "public.docs/1", letter)
    broker.add(row(1), {"id": 1})
    broker.rebalance("assigned", 0)
    broker.await_log("commit 0@2")
    assert not dict(member.store.records("dead_letter"))


def test_an_older_good_message_does_not_supersede_a_newer_bad_one(broker: FakeBroker) -> None:
    broker.add(row(1), {"id": 1})
    broker.add(b"{", {"id": 1})
    with FakeMember(broker) as member:
        broker.rebalance("assigned", 0)
        broker.await_log("commit 0@2")
        assert set(dict(member.store.records("dead_letter"))) == {"public.docs/1"}
        assert 1 in member.target.points


@pytest.mark.parametrize("known", [True, False])
def test_a_partition_that_another_took_meanwhile_is_not_claimed(
    broker: FakeBroker, known: bool
) -> None:
    with FakeMember(broker) as member:
        name, get = f"partition/{TOPIC}/0", member.store.get
        other = PartitionState(
            topic=TOPIC, partition=0, offset=0, end=0, phase="streaming", owner="first"
        ).to_record()
        if known:
            member.store.put("stream", name, other)

        def overtaken(kind: str, wanted: str) -> Any:
            found = get(kind, wanted)
            if wanted == name:
                member.store.get = get  # type: ignore[method-assign]
                member.store.put("stream", name, {**other, "owner": "another"})
            return found

        member.store.get = overtaken  # type: ignore[assignment,method-assign]
        broker.rebalance("assigned", 0)
        broker.await_log("closed")
        assert get("stream", name)["owner"] == "another"


def test_partitions_are_not_given_up_while_points_are_still_removed_for_them(
    broker: FakeBroker, member: FakeMember
) -> None:
    broker.rebalance("assigned", 0)
    session, begun = member.daemon._session, threading.Event()
    assert session is not None

    def sweep() -> None:
        begun.set()
        try:
            while True:
                member.daemon.wait(0.01)
        finally:
            broker.note("swept")

    session._aside._piece = session._executor.submit(sweep)
    assert begun.wait(PATIENCE_SECONDS)
    broker.rebalance("revoked", 0)
    assert broker.log.index("swept") < broker.log.index("revoked [0]")


def test_a_partition_that_is_read_again_reopens_what_it_may_bring_back(broker: FakeBroker) -> None:
    broker.add(row(1), {"id": 1})
    broker.add(row(2), {"id": 2})
    with FakeMember(broker) as member:
        note = TruncateNote(
            label="public.docs",
            lsn=1,
            topic=TOPIC,
            partition=1,
            ends={TOPIC: (2, 0)},
            whole=False,
            done=True,
        )
        member.store.put("stream", note.name, asdict(note))
        broker.rebalance("assigned", 0)
        broker.await_log("commit 0@2")
        broker.rebalance("revoked", 0)
        reopened = TruncateNote.from_record(member.store.get("stream", note.name))
        assert not reopened.done
        member.store.put("stream", note.name, asdict(note))
        # A crash between the record and the group: one message is read again.
        broker.committed[Partition(TOPIC, 0)] = 1
        broker.log.clear()
        broker.rebalance("assigned", 0)
        broker.await_log("start 0@1")
        assert not TruncateNote.from_record(member.store.get("stream", note.name)).done
        # The record told so before the note did, and before anything was read.
        assert broker.log.index("record 0@1") < broker.log.index("start 0@1")
