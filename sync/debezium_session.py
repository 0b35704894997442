"""A process of the consumer group: keeps Qdrant equal to Postgres from Debezium's topics.

    main thread      polls, decodes, collects windows; serves the group; commits
    writing thread   window -> points, one after the other

At most two windows wait for the writing thread; then the partitions are paused and polling only serves
the group, so memory is bounded whatever lies in the topics. A window's offsets count when its rows are
durable. Then, at most once a second:

    1. each partition's record is replaced, if it still names this process as its owner
    2. the group is told

When partitions are to be given up, what was collected is finished and committed first, within a time;
what is not finished by then is abandoned before the callback returns, so that no write of this process
comes after a write of the next owner. A process that has not heard of the group for most of its session
(it was stopped, or cut off) writes nothing until it has: its partitions may be others' by then.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Protocol

from bridge.config_tables import TableSettings
from bridge.errors import Unreachable
from bridge.failpoints import failpoint
from bridge.kafka_state import KafkaState, PartitionState, partition_name
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.retry import Retry
from bridge.stream_state import TableCounts
from sync.debezium import Record
from sync.debezium_aside import Aside
from sync.debezium_options import KafkaOptions
from sync.debezium_reread import NoSource, VisibleSource
from sync.debezium_tables import TopicTables
from sync.debezium_truncate import Truncates, concerned, reopen
from sync.debezium_window import Collector, KafkaWindow
from sync.debezium_writer import WindowWriter, Written
from sync.kafka import Consumer, Membership, NotOwner, Rebalance
from sync.kafka_claim import Owned, claim
from sync.kafka_offsets import Held, start_offset
from sync.kafka_partition import Partition
from sync.kafka_place import KafkaPlace
from sync.letters import Letters

REVOKE_SECONDS = 20.0
REFRESH_SECONDS = 5.0
POLL_SECONDS = 0.1
WINDOWS_AHEAD = 2


class Process(Protocol):
    """What a session needs of the daemon: its name, its flags, its counters."""

    owner: str
    state: KafkaState
    connected: bool
    windows: int
    read_again: int
    saved_at: float | None
    letters: Letters | None

    @property
    def stopping(self) -> bool:
        """Whether nothing more is to be read."""

    @property
    def retry(self) -> Retry:
        """How the writing thread tries again."""

    def abandon(self, given_up: bool) -> None:
        """Make what is under way in the writing thread end, or let it go on again."""

    @property
    def drain_seconds(self) -> float:
        """What is left of the time for finishing."""

    def wait(self, seconds: float) -> None:
        """Sleep in the writing thread."""

    def tell(self, event: str, **fields: object) -> None:
        """Log an event."""


class Session(Rebalance):
    """One membership of the group, over a consumer that somebody else closes."""

    def __init__(
        self,
        process: Process,
        consumer: Consumer,
        tables: Mapping[str, TableSettings],
        options: KafkaOptions,
        *,
        target: Target,
        store: QdrantState,
        clock: Callable[[], float],
        connect: Callable[[KafkaPlace, Membership | None], Consumer],
    ) -> None:
        self._process = process
        self._consumer = consumer
        self._settings = tables
        self._options = options
        self._target = target
        self._store = store
        self._clock = clock
        self._connect = connect
        self._topics = process.state.topics
        self._assigned: list[Partition] = []
        self._owned: dict[Partition, Owned] = {}
        self._queue: deque[KafkaWindow] = deque()
        self._flying: deque[tuple[KafkaWindow, Future[Written]]] = deque()
        self._saved_at = 0.0

    @property
    def partitions(self) -> list[PartitionState]:
        """Ours, as they are now."""
        return [owned.state for owned in list(self._owned.values())]

    def run(self) -> None:
        """From subscribing to the first error, or until the process is stopping."""
        with ExitStack() as stack:
            self._tables = self._open_tables(stack)
            self._collector = Collector(self._options.limits, self._tables, clock=self._clock)
            self._writer = self._make_writer(stack)
            self._aside = self._make_aside(stack)
            # Before the executor waits for what is under way.
            stack.callback(self._process.abandon, True)
            self._consumer.subscribe(self._options.topics, self)
            self._read()

    def drained(self, seconds: float) -> bool:
        """Whether all that was read is durable and committed, within this time."""
        done = self._finish(seconds)
        if not done:
            self._abandon_all()
        for owned in self._owned.values():
            owned.state = replace(owned.state, phase="stopped")
        self._save_quietly()
        return done

    def _open_tables(self, stack: ExitStack) -> TopicTables:
        options = self._options
        tables = TopicTables(
            self._settings,
            options.topics,
            options.modes,
            postgres_url=options.postgres_url,
            allow_plaintext=options.allow_plaintext,
            target=self._target,
            store=self._store,
            tell=self._process.tell,
            clock=self._clock,
        )
        stack.callback(tables.close)
        tables.open()
        return tables

    def _make_writer(self, stack: ExitStack) -> WindowWriter:
        options, retry, tables = self._options, self._process.retry, self._tables
        source: VisibleSource | NoSource = NoSource()
        if options.postgres_url is not None:
            source = VisibleSource(
                options.postgres_url,
                allow_plaintext=options.allow_plaintext,
                wait=self._process.wait,
                check=tables.cluster.require,
            )
        stack.callback(source.close)
        letters = Letters(
            self._store, retry, limit=options.dead_letter_limit, tell=self._process.tell
        )
        self._process.letters = letters
        topics_of: dict[str, list[str]] = {}
        for topic in options.topics:
            label = tables.table(topic).table.relation.label
            topics_of.setdefault(label, []).append(topic)

        def truncates(writer: WindowWriter) -> Truncates:
            return Truncates(
                tables,
                target=self._target,
                store=self._store,
                retry=retry,
                postgres_url=options.postgres_url,
                allow_plaintext=options.allow_plaintext,
                ends_of=self._ends_of,
                partitions={name: topic.partitions for name, topic in self._topics.items()},
                topics_of=topics_of,
                insert=writer.insert,
                check=tables.cluster.require,
                tell=self._process.tell,
            )

        return WindowWriter(
            target=self._target,
            source=source,
            retry=retry,
            letters=letters,
            truncates=truncates,
            tables=tables,
            topics_of=topics_of,
            ordering=options.write_ordering,
            without_postgres=options.without_postgres,
        )

    def _make_aside(self, stack: ExitStack) -> Aside:
        """And the writing thread, which it shares with the windows."""
        assert self._process.letters is not None  # noqa: S101 - made with the writer
        closing = stack.enter_context(ExitStack())  # when the thread has ended
        self._executor = stack.enter_context(ThreadPoolExecutor(1, "writer"))
        aside = Aside.of(
            self._executor,
            self._writer,
            self._process.letters,
            self._tables,
            store=self._store,
            retry=self._process.retry,
            tell=self._process.tell,
            settle_seconds=self._options.save_seconds,
            clock=self._clock,
        )
        closing.callback(aside.close)
        return aside

    def _ends_of(self, topic: str) -> Sequence[int]:
        """Where a topic's partitions end: asked over a connection of its own, in the writing thread."""
        looker = self._connect(self._options.place, None)
        try:
            count = self._topics[topic].partitions
            ends = looker.end([Partition(topic, number) for number in range(count)])
            return [ends[Partition(topic, number)] for number in range(count)]
        finally:
            looker.close()

    # --- reading -------------------------------------------------------------------------------

    def _read(self) -> None:
        collector, consumer = self._collector, self._consumer
        while not self._process.stopping:
            self._tables.look()
            due = collector.due_in()
            patience = min(POLL_SECONDS, self._aside.due_in())
            records = consumer.poll(patience if due is None else min(due, patience))
            self._start_assigned()
            failpoint("sync.decode")
            self._collect(records)
            if collector.due_in() == 0.0:
                self._queue.extend(collector.flush())
            self._pump()
            if self._queue:
                self._wait_for_room()
            self._save_if_due()
            self._aside.go_on(set(self._owned))

        if not self.drained(self._process.drain_seconds):
            self._process.tell("drain_timeout")

    def _collect(self, records: Sequence[Record]) -> None:
        for record in records:
            if Partition(record.topic, record.partition) in self._owned:
                self._collector.add(record)
        self._queue.extend(self._collector.take())

    def _pump(self) -> None:
        """Hand windows to the writing thread, as far as there is room; take note of what is done."""
        self._reap()
        while self._queue and len(self._flying) < WINDOWS_AHEAD:
            window = self._queue.popleft()
            self._flying.append((window, self._executor.submit(self._writer.apply, window)))

    def _reap(self) -> None:
        while self._flying and self._flying[0][1].done():
            window, future = self._flying.popleft()
            written = future.result()
            self._process.windows += 1
            self._process.read_again += written.read_again
            self._advance(window, written)

    def _advance(self, window: KafkaWindow, written: Written) -> None:
        for partition, offset in window.offsets.items():
            owned = self._owned.get(partition)
            if owned is not None:
                owned.advance(offset, window.changed_at_ms.get(partition, 0))
        # A window's counts belong to its partitions together: the first one keeps them.
        first = next((p for p in window.offsets if p in self._owned), None)
        if first is not None:
            state = self._owned[first].state
            counts = dict(state.tables)
            for label, more in written.tables.items():
                counts[label] = counts.get(label, TableCounts()).plus(
                    upserts=more.upserts, patches=more.patches, deletes=more.deletes
                )
            self._owned[first].state = replace(state, tables=counts)

    def _wait_for_room(self) -> None:
        """The writing thread is behind: nothing more is fetched until it has caught up."""
        consumer, paused = self._consumer, False
        while self._queue and not self._process.stopping:
            if self._flying:
                wait([self._flying[0][1]], timeout=0.5)
            self._pump()
            if self._queue:
                # Those that have just come too.
                consumer.pause(self._owned)
                paused = True
                # Serves the group, for which the client needs time: with none it never joins again, and
                # the writing thread waits for ever to hear of the group. A rebalance may let
                # something through.
                records = consumer.poll(POLL_SECONDS)
                self._start_assigned()
                self._collect(records)
                self._save_if_due()
        if paused:
            consumer.resume(self._owned)

    # --- offsets -------------------------------------------------------------------------------

    def _save_if_due(self) -> None:
        since = self._clock() - self._saved_at
        if since < self._options.save_seconds or not self._owned:
            return
        if any(owned.dirty for owned in self._owned.values()) or since >= REFRESH_SECONDS:
            try:
                self._save()
            except NotOwner:
                raise
            except Unreachable as error:
                # No reason to leave the group: what is durable can be told later.
                self._process.tell("not_committed", reason=error.message)

    def _save(self, *, awaited: bool = False) -> None:
        """Records first, then the group; see the module."""
        consumer = self._consumer
        self._saved_at = self._clock()
        moved: dict[Partition, int] = {}
        failpoint("sync.before_checkpoint")
        for partition, owned in self._owned.items():
            end = max(consumer.known_end(partition) or 0, owned.state.end, owned.state.offset)
            owned.state = replace(owned.state, end=end, saved_at_ms=int(time.time() * 1000))
            stored = self._store.put_if(
                "stream",
                owned.state.name,
                owned.state.to_record(),
                matching={"owner": self._process.owner},
            )
            if stored is None or stored["owner"] != self._process.owner:
                raise NotOwner(f"{partition} belongs to another process by now")
            if owned.dirty:
                moved[partition] = owned.state.offset
        self._process.saved_at = time.monotonic()
        failpoint("sync.after_checkpoint")
        if moved:
            told = consumer.commit(moved, awaited=awaited)
            for owned in self._owned.values():
                owned.dirty = not told
        failpoint("sync.after_acknowledge")

    # --- the group -----------------------------------------------------------------------------

    def assigned(self, partitions: list[Partition]) -> None:
        """They are started after the poll: here nothing may fail."""
        self._assigned += partitions

    def _start_assigned(self) -> None:
        consumer = self._consumer
        waiting, self._assigned = self._assigned, []
        waiting = [one for one in waiting if one not in self._owned]
        if not waiting:
            return
        begins, ends = consumer.begin(waiting), consumer.end(waiting)
        for partition in waiting:
            held = Held(begin=begins[partition], end=ends[partition])
            self._owned[partition] = self._claim(partition, held)
        if self._process.letters is not None:
            self._process.letters.look_again()
        for partition in waiting:
            consumer.start(partition, self._owned[partition].state.offset)
        self._process.connected = True
        self._process.tell("assigned", partitions=", ".join(map(str, waiting)))

    def _claim(self, partition: Partition, held: Held) -> Owned:
        """Find out where to go on, and put our name on the record."""
        # First the group's offset: the record of a later moment is never behind it.
        committed = self._consumer.committed(partition)
        record = self._store.get("stream", partition_name(partition.topic, partition.number))
        recorded = None if record is None else PartitionState.from_record(record)
        offset = start_offset(
            partition,
            held,
            self._topics[partition.topic],
            committed=committed,
            recorded=recorded,
            copied=self._process.state.copied,
        )
        state = PartitionState(
            topic=partition.topic,
            partition=partition.number,
            offset=offset,
            end=held.end,
            phase="streaming" if offset >= held.end else "catching_up",
            owner=self._process.owner,
            changed_at_ms=0 if recorded is None else recorded.changed_at_ms,
            saved_at_ms=int(time.time() * 1000),
            tables={} if recorded is None else recorded.tables,
        )
        if recorded is not None and offset < recorded.offset:
            self._process.tell(
                "rewound", partition=str(partition), messages=recorded.offset - offset
            )
        # Until the first window is saved, what is known to be durable stays known.
        durable = state if recorded is None else replace(state, offset=recorded.offset)
        again = concerned(self._store, partition, offset)
        claim(self._store, state if again else durable, recorded)
        reopen(self._store, again)
        return Owned(state, held.end, self._clock())

    def revoked(self, partitions: list[Partition]) -> None:
        """Finish what was collected, commit it, give them up."""
        if not self._finish(
            min(REVOKE_SECONDS, self._options.membership.session_timeout_seconds / 3)
        ):
            self._process.tell("abandoned", partitions=", ".join(map(str, partitions)))
            self._abandon_all()
            self._rewind([one for one in self._owned if one not in partitions])
        self._save_quietly()
        self._give_up(partitions)

    def lost(self, partitions: list[Partition]) -> None:
        """They are others' already: nothing more may be written for them."""
        self._abandon_all()
        self._give_up(partitions)
        self._rewind(list(self._owned))

    def _give_up(self, partitions: list[Partition]) -> None:
        self._assigned = [one for one in self._assigned if one not in partitions]
        for partition in partitions:
            self._owned.pop(partition, None)
        if partitions:
            self._process.tell("given_up", partitions=", ".join(map(str, partitions)))

    def _finish(self, seconds: float) -> bool:
        """Whether all that was collected is durable, within this time."""
        deadline = self._clock() + seconds
        self._queue.extend(self._collector.flush())
        while self._queue or self._under_way():
            if self._clock() >= deadline:
                return False
            self._pump()
            wait(self._under_way()[:1], timeout=max(0.0, min(0.1, deadline - self._clock())))
            self._reap()
        self._aside.forget()
        return True

    def _under_way(self) -> list[Future[Any]]:
        """What the writing thread has not done yet."""
        return [*(future for _window, future in self._flying), *self._aside.under_way]

    def _abandon_all(self) -> None:
        """Returns when nothing is under way any more."""
        self._process.abandon(True)
        self._queue.clear()
        self._collector.drop()
        wait(self._under_way())
        while self._flying:
            window, future = self._flying.popleft()
            error = future.exception()
            if error is None:
                self._advance(window, future.result())
            elif not isinstance(error, Unreachable):
                raise error
        self._aside.forget()
        self._process.abandon(False)

    def _rewind(self, partitions: list[Partition]) -> None:
        """Read what was abandoned of these again."""
        for partition in partitions:
            self._consumer.start(partition, self._owned[partition].state.offset)

    def _save_quietly(self) -> None:
        """All of ours, whatever was told before: an answer may still be on its way."""
        for owned in self._owned.values():
            owned.dirty = True
        try:
            if self._owned:
                self._save(awaited=True)
        except Unreachable as error:
            # Read again by the next owner.
            self._process.tell("not_committed", reason=error.message)
