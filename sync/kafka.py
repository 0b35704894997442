"""Kafka's consumer, as the daemon needs it: the only place that knows the client (kafka-python).

Offsets are ours: nothing is committed by itself and nothing is reset (`auto.offset.reset` is none), so
an offset that is not there any more is `GAP`, not a new beginning. A partition that is assigned waits,
paused at an offset that is never read from, until `start` says where to go on.

Errors of the client are translated: what passes by itself is `Unreachable`, a wrong setting is a
`UsageError`, and a commit of a partition that belongs to another process by now is `NotOwner`.
"""

from __future__ import annotations

import logging
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from bridge.errors import Unreachable, UsageError
from bridge.lease import boottime
from sync.debezium import Record
from sync.kafka_offsets import gap
from sync.kafka_partition import Partition
from sync.kafka_place import KafkaPlace
from sync.kafka_probe import require_understanding

with warnings.catch_warnings():
    # It asks importlib.resources in a way that Python 3.11 has deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka  # type: ignore[import-untyped]
    from kafka import errors
    from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor  # type: ignore[import-untyped]
    from kafka.coordinator.assignors.range import RangePartitionAssignor  # type: ignore[import-untyped]
    from kafka.net.sasl import get_sasl_mechanism  # type: ignore[import-untyped]
    from kafka.record.util import crc32c_c  # type: ignore[import-untyped]
    from kafka.structs import OffsetAndMetadata, TopicPartition  # type: ignore[import-untyped]

logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what matters is raised, and told by us

HEARTBEATS_A_SESSION = 10
MOST_RECORDS = 1000
LEAST_FETCH_BYTES = 1024 * 1024
_LOOK_SECONDS = 0.01
_JOIN_MS = 5_000
"""Longer than the others need to hear of it (a heartbeat, at 45 s a session) and to let go."""
_BOOTSTRAP_MS = 10_000
"""How long the first answer is waited for; then it is tried again, and somebody hears of it."""


class NotOwner(Unreachable):
    """The partitions belong to another process of the group by now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """How the group is joined. `fetch_bytes` bounds what is fetched ahead."""

    group: str
    session_timeout_seconds: int
    fetch_bytes: int
    cooperative: bool = True


class Rebalance(ABC):
    """What happens to our partitions. Told while `poll` waits, by a thread of its own, so that whoever
    polls and whoever is told never run at once."""

    @abstractmethod
    def assigned(self, partitions: list[Partition]) -> None:
        """These are ours; they wait for `Consumer.start`."""

    @abstractmethod
    def revoked(self, partitions: list[Partition]) -> None:
        """These are to be given up; offsets may still be committed."""

    @abstractmethod
    def lost(self, partitions: list[Partition]) -> None:
        """These are others' already."""


class Consumer:
    """A member of the group, or (without `membership`) somebody who only looks."""

    def __init__(self, place: KafkaPlace, membership: Membership | None = None) -> None:
        require_understanding(place, lambda: _mechanism(place))
        settings = place.client_settings() | {
            "auto_offset_reset": "none",
            "enable_auto_commit": False,
            "metrics_enabled": False,
            "bootstrap_timeout_ms": _BOOTSTRAP_MS,
            # In Python it would take longer than everything else together.
            "check_crcs": crc32c_c is not None,
            "group_id": None,
        }
        if membership is not None:
            settings |= _member_settings(membership)
        self._turn = threading.Lock()
        self._teller = ThreadPoolExecutor(1, "rebalance")
        self._told: deque[Future[None]] = deque()
        self._failures: deque[BaseException] = deque()
        self._commit_failed: deque[Exception] = deque()
        self._losing = False
        self._closing = False
        self._heard_at = boottime()
        self._heard = 0.0
        with translated():
            self._client = kafka.KafkaConsumer(**settings)

    def close(self) -> None:
        """Leave the group."""
        self._closing = True
        if self._turn.locked():
            self._turn.release()  # somebody may be waiting to tell what nobody wants to hear now
        try:
            with translated():
                self._client.close(autocommit=False, timeout_ms=5000)
        finally:
            self._teller.shutdown()

    # --- what there is -------------------------------------------------------------------------

    def partitions_of(self, topic: str) -> int:
        """The number of its partitions; 0 if there is no such topic."""
        with translated():
            return len(self._client.partitions_for_topic(topic) or ())

    def begin(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The first offset that each still holds."""
        with translated():
            return _offsets(self._client.beginning_offsets(list(map(_theirs, partitions))))

    def end(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The offset behind the last message of each."""
        with translated():
            return _offsets(self._client.end_offsets(list(map(_theirs, partitions))))

    def committed(self, partition: Partition) -> int | None:
        """The group's offset; None if it has none."""
        with translated():
            found: int | None = self._client.committed(_theirs(partition))
            return found

    # --- reading -------------------------------------------------------------------------------

    def subscribe(self, topics: Iterable[str], rebalance: Rebalance) -> None:
        """Join the group for these topics."""
        self._turn.acquire()
        with translated():
            self._client.subscribe(list(topics), listener=self._listener(rebalance))

    def poll(self, seconds: float, *, limit: int = MOST_RECORDS) -> list[Record]:
        """What has arrived, in the order of each partition. Serves the group as well."""
        self._turn.release()
        try:
            with translated():
                self._join()
                found = self._client.poll(timeout_ms=int(seconds * 1000), max_records=limit)
                # What comes next is on its way while these are decoded; the client only asks for it
                # when it is polled again.
                self._client._fetcher.send_fetches()
        finally:
            # Whoever is told has waited for this moment; the lock alone would not be fair to him.
            while self._told:
                wait([self._told.popleft()])
            self._turn.acquire()
        if self._failures:
            raise self._failures.popleft()
        return [
            Record(
                topic=message.topic,
                partition=message.partition,
                offset=message.offset,
                timestamp_ms=message.timestamp,
                key=message.key,
                value=message.value,
                headers=message.headers,
            )
            for messages in found.values()
            for message in messages
        ]

    def _join(self) -> None:
        """If the group is about to change, wait until it has, or for some seconds.

        The client takes note of a join only if it ends while somebody waits for it. One that ends
        between two polls is begun anew; or, if there is no reason for it any more by then, forgotten
        halfway, without heartbeats from then on. Polls of some milliseconds, which is all that there
        are while records come, make both likely.
        """
        coordinator = self._client._coordinator
        if coordinator.group_id is None:
            return
        needed = coordinator.need_rejoin()
        if needed or coordinator.rejoining:
            if not needed:
                coordinator.request_rejoin()
            coordinator.poll(timeout_ms=_JOIN_MS)

    def start(self, partition: Partition, offset: int) -> None:
        """Read a partition that waits, from this offset on."""
        with _unless_reassigned():
            self._client.seek(_theirs(partition), offset)
            self._client.resume(_theirs(partition))

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Fetch no more of these, for now."""
        for one in list(partitions):
            with _unless_reassigned():
                self._client.pause(_theirs(one))

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Fetch them again."""
        for one in list(partitions):
            with _unless_reassigned():
                self._client.resume(_theirs(one))

    def known_end(self, partition: Partition) -> int | None:
        """The offset behind the last message, as of the last answer; None before the first one."""
        found: int | None = None
        with _unless_reassigned():
            found = self._client.highwater(_theirs(partition))
        return found

    def commit(self, offsets: Mapping[Partition, int], *, awaited: bool = True) -> bool:
        """Tell the group how far we are. False if one of the last times failed without harm, because
        the group is about to change: then it has to be told once more. NotOwner if it is not ours to
        tell any more. Unless it is `awaited`, a failure comes with the next call."""
        theirs = {_theirs(one): OffsetAndMetadata(offset) for one, offset in offsets.items()}
        complete = True
        with translated():
            while self._commit_failed:
                error = self._commit_failed.popleft()
                complete = False
                if not isinstance(error, _HARMLESS):
                    raise error
            if awaited:
                self._client.commit(theirs)
            else:
                self._client.commit_async(theirs, callback=self._committed)
        return complete

    def _committed(self, _offsets: Any, outcome: Any) -> None:
        if isinstance(outcome, Exception):
            self._commit_failed.append(outcome)

    @property
    def silent_seconds(self) -> float:
        """How long ago the group was heard of last, suspended time included; without end if it has
        taken partitions away and nobody has dealt with that yet."""
        if self._losing:
            return float("inf")
        heartbeat = self._client._coordinator.heartbeat
        heard = max(heartbeat.last_receive, heartbeat.last_reset)
        if heard != self._heard:
            self._heard, self._heard_at = heard, boottime() - (time.monotonic() - heard)
        return boottime() - self._heard_at

    def _listener(self, rebalance: Rebalance) -> Any:
        """The client calls it in the thread that also sends heartbeats, which must not wait."""
        client = self._client

        def tell(action: Callable[[list[Partition]], None], partitions: list[Partition]) -> None:
            with self._turn:
                if self._closing:
                    return
                try:
                    action(partitions)
                except BaseException as error:  # the client would only log it
                    self._failures.append(error)

        async def told(
            action: Callable[[list[Partition]], None], partitions: Iterable[Any]
        ) -> None:
            if self._closing:
                return
            ours = [Partition(one.topic, one.partition) for one in partitions]
            telling = self._teller.submit(tell, action, ours)
            self._told.append(telling)
            while not telling.done():
                await client._net.sleep(_LOOK_SECONDS)

        class Listener(kafka.AsyncConsumerRebalanceListener):  # type: ignore[misc]
            async def on_partitions_assigned(_self, assigned: Iterable[Any]) -> None:
                for one in assigned:
                    client.seek(one, 0)
                    client.pause(one)
                await told(rebalance.assigned, assigned)

            async def on_partitions_revoked(_self, revoked: Iterable[Any]) -> None:
                await told(rebalance.revoked, revoked)

            async def on_partitions_lost(_self, lost: Iterable[Any]) -> None:
                self._losing = True
                try:
                    await told(rebalance.lost, lost)
                finally:
                    self._losing = False

        return Listener()


def _member_settings(membership: Membership) -> dict[str, Any]:
    session = membership.session_timeout_seconds * 1000
    assignor = CooperativeStickyAssignor if membership.cooperative else RangePartitionAssignor
    return {
        "group_id": membership.group,
        "session_timeout_ms": session,
        "heartbeat_interval_ms": session // HEARTBEATS_A_SESSION,
        "max_poll_interval_ms": max(300_000, session),
        "partition_assignment_strategy": (assignor,),
        "fetch_max_bytes": max(membership.fetch_bytes, LEAST_FETCH_BYTES),
        "max_partition_fetch_bytes": max(membership.fetch_bytes // 2, LEAST_FETCH_BYTES),
        "max_poll_records": MOST_RECORDS,
    }


def _mechanism(place: KafkaPlace) -> Any:
    settings = place.client_settings()
    return get_sasl_mechanism(settings["sasl_mechanism"])(**settings)


def _theirs(partition: Partition) -> Any:
    return TopicPartition(partition.topic, partition.number)


def _offsets(found: Mapping[Any, int]) -> dict[Partition, int]:
    return {Partition(one.topic, one.partition): offset for one, offset in found.items()}


_NOT_OURS = (
    errors.CommitFailedError,
    errors.IllegalGenerationError,
    errors.UnknownMemberIdError,
    errors.RebalanceInProgressError,
    errors.FencedInstanceIdError,
)
_HARMLESS = (errors.RebalanceInProgressError, errors.RetriableError)
"""What an offset that could not be told may have met: it is told again with the next ones."""
_SETTINGS = (
    errors.AuthorizationError,
    errors.SaslAuthenticationFailedError,
    errors.UnsupportedSaslMechanismError,
    errors.KafkaConfigurationError,
    errors.InvalidSessionTimeoutError,
    errors.UnsupportedCodecError,
    errors.InconsistentGroupProtocolError,
)


@contextmanager
def _unless_reassigned() -> Iterator[None]:
    """The client changes what is assigned as soon as it knows, and tells us afterwards: until then a
    partition may be ours that is none of its own."""
    with suppress(errors.IllegalStateError, AssertionError, KeyError, ValueError):
        yield


@contextmanager
def translated() -> Iterator[None]:
    """Errors of the client as ours."""
    try:
        yield
    except (errors.OffsetOutOfRangeError, errors.NoOffsetForPartitionError) as error:
        raise gap(f"Kafka does not hold the next offset any more ({error})") from error
    except errors.LogTruncationError as error:
        raise gap("a broker lost messages that had been read (unclean leader election)") from error
    except _NOT_OURS as error:
        raise NotOwner(f"the group has moved on ({type(error).__name__})") from error
    except _SETTINGS as error:
        raise UsageError(
            f"Kafka refuses: {type(error).__name__}", hint="see kafka: in the configuration"
        ) from error
    except (errors.KafkaError, OSError) as error:
        raise Unreachable(
            f"Kafka does not answer ({type(error).__name__})",
            hint="is kafka.bootstrap_servers right, and does the broker run?",
        ) from error


def topic_settings(place: KafkaPlace, topic: str) -> dict[str, str]:
    """A topic's configuration; empty if we may not ask."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from kafka.admin import (  # type: ignore[import-untyped]
            ConfigResource,
            ConfigResourceType,
            KafkaAdminClient,
        )
    with translated():
        admin = KafkaAdminClient(**place.client_settings())
        try:
            found = admin.describe_configs(
                [ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all"
            )
        except errors.AuthorizationError:
            return {}
        finally:
            admin.close()
    return {
        name: str(value["value"])
        for name, value in found.get("topic", {}).get(topic, {}).items()
        if value.get("value") is not None
    }
