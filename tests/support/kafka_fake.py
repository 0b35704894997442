"""A broker in memory, with one member of its group, and a state store: for tests of a session.

What the member does is written down in `log`, in order, so that tests can say what came before what.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from bridge.config_tables import TableSettings
from bridge.kafka_state import RECORD_NAME, KafkaState, TopicState
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.recorded_table import PREFIX, to_record
from sync.debezium import Record
from sync.debezium_daemon import KafkaDaemon
from sync.debezium_options import KafkaOptions
from sync.kafka import Consumer, Membership, Rebalance
from sync.kafka_partition import Partition
from sync.kafka_place import KafkaPlace
from sync.windows import Limits
from tests.support.debezium_messages import MODES, mapping, record
from tests.support.fake_target import FakeTarget

TOPIC = "shop.public.docs"
PATIENCE_SECONDS = 10.0


class MemoryRecords:
    """`state.StateStore`, and replacing by owner."""

    pipeline = "p"

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], Any] = {}
        self.log: list[str] = []

    def get(self, kind: str, name: str) -> Any:
        return self.kept.get((kind, name))

    def put(self, kind: str, name: str, record: Any) -> None:
        self.kept[kind, name] = record

    def put_new(self, kind: str, name: str, record: Any) -> Any:
        return self.kept.setdefault((kind, name), record)

    def put_if(self, kind: str, name: str, record: Any, *, matching: Mapping[str, str]) -> Any:
        stored = self.get(kind, name)
        if stored is not None and all(stored[k] == v for k, v in matching.items()):
            self.put(kind, name, record)
            if "offset" in record:
                self.log.append(f"record {name.rpartition('/')[2]}@{record['offset']}")
        return self.get(kind, name)

    def records(self, kind: str) -> Iterator[tuple[str, Any]]:
        yield from [(name, kept) for (of, name), kept in self.kept.items() if of == kind]

    def remove(self, kind: str, names: Iterable[str]) -> None:
        for name in names:
            self.kept.pop((kind, name), None)


class MemoryTarget(FakeTarget):
    """The rest of what a daemon asks of a target."""

    label = "memory"

    def flush(self) -> None:
        """Everything is there already."""

    def collection(self, name: str) -> None:
        """Nobody looks closely."""


@dataclass(slots=True)
class FakeBroker:
    """One topic of `partitions`; `member` is the consumer that a daemon was given last."""

    partitions: int = 2
    messages: dict[int, list[Record]] = field(default_factory=dict)
    committed: dict[Partition, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    member: FakeConsumer | None = None

    def add(self, value: Any, key: Any, partition: int = 0) -> None:
        """Append a message."""
        with self.changed:
            held = self.messages.setdefault(partition, [])
            made = record(value, key, partition=partition, offset=len(held))
            held.append(
                Record(
                    topic=TOPIC,
                    partition=partition,
                    offset=made.offset,
                    timestamp_ms=made.timestamp_ms,
                    key=made.key,
                    value=made.value,
                )
            )
            self.changed.notify_all()

    def rebalance(self, kind: str, *numbers: int) -> None:
        """Tell the member at its next poll; returns when it has dealt with it."""
        with self.changed:
            assert self.member is not None
            self.member.events.append((kind, [Partition(TOPIC, n) for n in numbers]))
            self.changed.notify_all()
            member = self.member
            assert self.changed.wait_for(lambda: not member.events, PATIENCE_SECONDS)

    def await_log(self, line: str) -> None:
        """Return once the member has done this."""
        with self.changed:
            assert self.changed.wait_for(lambda: line in self.log, PATIENCE_SECONDS), self.log

    def await_count(self, line: str, count: int) -> None:
        """Return once the member has done this so often."""
        with self.changed:
            done = self.changed.wait_for(lambda: self.log.count(line) >= count, PATIENCE_SECONDS)
            assert done, self.log

    def note(self, line: str) -> None:
        """Something happened."""
        with self.changed:
            self.log.append(line)
            self.changed.notify_all()


class FakeConsumer:
    """`sync.kafka.Consumer` over the broker."""

    silent_seconds = 0.0

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self.events: list[tuple[str, list[Partition]]] = []
        self._places: dict[Partition, int] = {}
        self._paused: set[Partition] = set()
        self._rebalance: Rebalance | None = None
        broker.member = self

    def partitions_of(self, _topic: str) -> int:
        return self._broker.partitions

    def begin(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        return dict.fromkeys(partitions, 0)

    def end(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        return {one: len(self._broker.messages.get(one.number, ())) for one in partitions}

    def known_end(self, partition: Partition) -> int:
        return self.end([partition])[partition]

    def committed(self, partition: Partition) -> int | None:
        return self._broker.committed.get(partition)

    def subscribe(self, _topics: Iterable[str], rebalance: Rebalance) -> None:
        self._rebalance = rebalance
        self._broker.note("subscribed")

    def start(self, partition: Partition, offset: int) -> None:
        self._places[partition] = offset
        self._broker.note(f"start {partition.number}@{offset}")

    def place(self, number: int) -> int | None:
        """Where the partition is fetched from next."""
        return next((at for one, at in self._places.items() if one.number == number), None)

    def pause(self, partitions: Iterable[Partition]) -> None:
        self._paused |= set(partitions)
        self._broker.note("pause")

    def resume(self, partitions: Iterable[Partition]) -> None:
        self._paused -= set(partitions)
        self._broker.note("resume")

    def commit(self, offsets: Mapping[Partition, int], *, awaited: bool = True) -> bool:
        self._broker.committed.update(offsets)
        for partition, offset in offsets.items():
            self._broker.note(f"commit {partition.number}@{offset}")
        return True

    def poll(self, seconds: float, *, limit: int = 1000) -> list[Record]:
        with self._broker.changed:
            self._broker.changed.wait_for(self._something, seconds)
            event = self.events[0] if self.events else None
        if event is not None:
            self._tell(event)
            return []
        return self._fetched(limit)

    def close(self) -> None:
        self._broker.note("closed")

    def _something(self) -> bool:
        return bool(self.events) or any(self._left(one) for one in self._places)

    def _left(self, one: Partition) -> Sequence[Record]:
        if one in self._paused:
            return []
        return self._broker.messages.get(one.number, [])[self._places[one] :]

    def _tell(self, event: tuple[str, list[Partition]]) -> None:
        assert self._rebalance is not None
        kind, partitions = event
        getattr(self._rebalance, kind)(partitions)
        if kind != "assigned":
            for one in partitions:
                self._places.pop(one, None)
        with self._broker.changed:
            self.events.pop(0)
            self._broker.log.append(f"{kind} {[one.number for one in partitions]}")
            self._broker.changed.notify_all()

    def _fetched(self, limit: int) -> list[Record]:
        found: list[Record] = []
        for one in list(self._places):
            part = self._left(one)[: limit - len(found)]
            self._places[one] += len(part)
            found += part
        return found


class FakeMember:
    """A daemon on the broker, running in a thread until the context ends."""

    def __init__(self, broker: FakeBroker, *, operations: int = 100) -> None:
        self.broker = broker
        self.target = MemoryTarget()
        self.store = MemoryRecords()
        self.store.log = broker.log
        self.events: list[str] = []
        made = mapping()
        self.store.put("stream", f"{PREFIX}public.docs", to_record(made.table, full=False))
        zeros = (0,) * broker.partitions
        state = KafkaState(
            group="g",
            topics={TOPIC: TopicState(table="public.docs", begin=zeros, end=zeros)},
            copied=True,
            phase="reading",
        )
        self.store.put("stream", RECORD_NAME, state.to_record())

        self.daemon = KafkaDaemon(
            {"public.docs": TableSettings()},
            target=cast(Target, self.target),
            store=cast(QdrantState, self.store),
            options=KafkaOptions(
                place=KafkaPlace(bootstrap_servers=("nowhere",)),
                membership=Membership(group="g", session_timeout_seconds=6, fetch_bytes=10**6),
                topics={TOPIC: "public.docs"},
                modes=MODES,
                postgres_url=None,
                allow_plaintext=False,
                limits=Limits(operations=operations, size_bytes=10**7, seconds=0.01),
                without_postgres="dead_letter",
                save_seconds=0.02,
            ),
            log=lambda event, **fields: self.events.append(event),
            connect=lambda place, membership: cast(Consumer, FakeConsumer(broker)),
        )
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.daemon.run()
        except BaseException as error:
            self.error = error

    def __enter__(self) -> FakeMember:
        self._thread.start()
        self.broker.await_log("subscribed")
        return self

    def __exit__(self, *_: object) -> None:
        self.daemon.stop()
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "the daemon does not end"

    def ended(self) -> BaseException | None:
        """What it ended with by itself."""
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "it goes on"
        return self.error
