"""A process that reads Debezium's topics, from its start to its end.

One `Session` after the other: each joins the consumer group, and ends with the first outage; then it is
waited, with backoff and without end. What would lose or damage data stops (exit 3) and is noted in the
pipeline's record. Before each write the group must have been heard of lately: a process that was stopped
or cut off may have lost its partitions to others, and writes nothing until it knows.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace

from bridge.config_tables import TableSettings
from bridge.errors import BridgeError, StopError, Unreachable
from bridge.kafka_state import RECORD_NAME, KafkaState, PartitionState, read_kafka
from bridge.qdrant.guarded import GuardedTarget
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.retry import Retry, decide
from bridge.stream_state import StopNote
from sync.debezium_options import Abandoned, KafkaOptions
from sync.debezium_session import Session
from sync.kafka import Consumer, Membership
from sync.kafka_place import KafkaPlace
from sync.letters import Letters

DRAIN_SECONDS = 30.0
_LAST_COMMIT_SECONDS = 2.0
_TRUSTED_PART = 0.6
"""Of a session without a sign of life, before nothing more is written."""


class KafkaDaemon:
    """One process. `run` returns after `stop` was called, and raises what stops it."""

    def __init__(
        self,
        tables: Mapping[str, TableSettings],
        *,
        target: Target,
        store: QdrantState,
        options: KafkaOptions,
        log: Callable[..., None],
        observe: Callable[[str, float], None] = lambda kind, seconds: None,
        clock: Callable[[], float] = time.monotonic,
        connect: Callable[[KafkaPlace, Membership | None], Consumer] = Consumer,
    ) -> None:
        self._tables = tables
        self._target = GuardedTarget(target, before=self._require_membership, after=observe)
        self._store = store
        self._options = options
        self._log = log
        self._clock = clock
        self._connect = connect
        self._stopping = threading.Event()
        self._abandon = threading.Event()
        self._give_up_at = float("inf")
        self._consumer: Consumer | None = None
        self._session: Session | None = None
        self.owner = uuid.uuid4().hex
        self.state = self._load()
        # For whoever watches, from other threads.
        self.connected = False
        self.windows = 0
        self.read_again = 0
        self.saved_at: float | None = None
        self.letters: Letters | None = None

    def _load(self) -> KafkaState:
        state = read_kafka(self._store)
        if state is None or state.phase == "backfill":
            raise StopError(
                f"pipeline {self._store.pipeline} is not ready to be read from Kafka",
                code="NOT_PREPARED",
                hint="qdrant-bridge run copies the tables, if need be, and goes on with the topics",
            )
        return state

    # --- life ----------------------------------------------------------------------------------

    def stop(self) -> None:
        """Read nothing more, finish what was read within 30 s, then return from `run`."""
        self._give_up_at = self._clock() + DRAIN_SECONDS
        self._stopping.set()

    def run(self) -> None:
        """Read until stopped. Outages are retried for ever, with backoff."""
        failures = 0
        try:
            while not self._stopping.is_set():
                began = self._clock()
                try:
                    self._one_session()
                except Unreachable as error:
                    failures = 1 if self._clock() - began > 60 else failures + 1
                    seconds = decide(error, failures).wait_seconds
                    self._log("waiting", reason=error.message, seconds=round(seconds, 2))
                    self._stopping.wait(seconds)
        except StopError as error:
            self._note_stop(error)
            raise

    def _note_stop(self, error: StopError) -> None:
        note = StopNote(code=error.code, message=error.message, hint=error.hint)
        self._log("stopped", code=error.code, reason=error.message)
        try:
            self._save_state(note)
        except BridgeError as second:
            self._log("stop_not_recorded", reason=second.message)

    def _save_state(self, stop: StopNote | None) -> None:
        # Another process may have added which cluster it is.
        self.state = replace(read_kafka(self._store) or self.state, stop=stop)
        self._store.put("stream", RECORD_NAME, self.state.to_record())

    def _one_session(self) -> None:
        self._abandon.clear()
        with ExitStack() as stack:
            consumer = self._connect(self._options.place, self._options.membership)
            stack.callback(self._close, consumer)
            self._consumer = consumer
            self._require_partitions(consumer)
            if self.state.stop is not None:
                self._save_state(None)
            self._log("connected", group=self._options.membership.group, owner=self.owner)
            self._session = Session(
                self,
                consumer,
                self._tables,
                self._options,
                target=self._target,
                store=self._store,
                clock=self._clock,
                connect=self._connect,
            )
            self._session.run()

    def _close(self, consumer: Consumer) -> None:
        self.connected = False
        self._session = self._consumer = None
        try:
            consumer.close()
        except Unreachable as error:
            self._log("not_left", reason=error.message)

    def _require_partitions(self, consumer: Consumer) -> None:
        for topic, known in self.state.topics.items():
            found = consumer.partitions_of(topic)
            if found == 0:
                raise Unreachable(f"the topic {topic} is not there")
            if found != known.partitions:
                raise StopError(
                    f"the topic {topic} has {found} partitions, and had {known.partitions}: a key's "
                    "changes may lie in two of them now, in no order",
                    code="PARTITIONS_CHANGED",
                    hint="copy the tables again under another pipeline name; the number of partitions "
                    "has to be chosen beforehand",
                )

    # --- for the session, and for whoever watches ----------------------------------------------

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    @property
    def drain_seconds(self) -> float:
        """What is left of the time for finishing, but for a last commit."""
        return max(0.0, self._give_up_at - self._clock() - _LAST_COMMIT_SECONDS)

    @property
    def partitions(self) -> list[PartitionState]:
        """Ours, as they are now."""
        session = self._session
        return [] if session is None else session.partitions

    @property
    def dead_letters(self) -> int:
        """Rows that are set aside."""
        return 0 if self.letters is None else len(self.letters)

    def abandon(self, given_up: bool) -> None:
        """Make what is under way in the writing thread end, or let it go on again."""
        if given_up:
            self._abandon.set()
        else:
            self._abandon.clear()

    def tell(self, event: str, **fields: object) -> None:
        """Log an event."""
        self._log(event, **fields)

    # --- the writing thread --------------------------------------------------------------------

    @property
    def retry(self) -> Retry:
        """How whatever the writing thread asks for is tried again: until it is told to give up."""
        return Retry(sleep=self.wait, on_wait=self._tell_waiting)

    def wait(self, seconds: float) -> None:
        """Sleep in the writing thread; Abandoned if what it does is to be given up."""
        if self._abandon.wait(seconds):
            raise Abandoned("given up: the partitions go to others, or the session is over")

    def _tell_waiting(self, error: BridgeError, seconds: float) -> None:
        if not isinstance(error, Abandoned):
            self._log("waiting", reason=error.message, seconds=round(seconds, 2))

    def _require_membership(self) -> None:
        """Before each write: the partitions must still be ours."""
        consumer = self._consumer
        limit = self._options.membership.session_timeout_seconds * _TRUSTED_PART
        if consumer is not None and consumer.silent_seconds > limit:
            raise Unreachable(
                "the group has not been heard of; its partitions may be others' by now"
            )
        if self._abandon.is_set():
            raise Abandoned("given up: the partitions go to others, or the session is over")
