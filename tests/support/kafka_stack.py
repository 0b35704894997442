"""Real Kafka, Connect and Debezium for tests, on the JVM; and a topic's messages without Debezium.

`stack()` starts `kafka_debezium/start.py` and gives its addresses; one a session is enough, since every
test has a database, a slot, topics and a group of its own. Nothing is skipped but where there is no JVM.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import psycopg
import pytest

from sync.kafka import Consumer
from sync.kafka_partition import Partition
from sync.kafka_place import KafkaPlace
from tests.support.processes import children

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka  # type: ignore[import-untyped]
    from kafka.admin import KafkaAdminClient, NewTopic  # type: ignore[import-untyped]

HERE: Final = Path(__file__).resolve().parent / "kafka_debezium"
PATIENCE_SECONDS: Final = 90.0
_LOOK_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Addresses of a running stack."""

    kafka: str
    pids: Mapping[str, int]
    starter: int
    connect: str = ""
    postgres: str = ""
    postgres_port: int = 0
    directory: str = ""
    secure: Mapping[str, int] = field(default_factory=dict)
    """By name, the ports of listeners for clients that authenticate."""

    @property
    def place(self) -> KafkaPlace:
        """For `sync.kafka`."""
        return KafkaPlace(bootstrap_servers=(self.kafka,))

    def kill(self, name: str) -> None:
        """Kafka or Connect, as a power failure would; it is started again at once."""
        found = [pid for pid in children(self.starter) if name in _command(pid)]
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not any(_runs(pid) for pid in found), f"the end of {name}")
        os.kill(self.starter, signal.SIGUSR1)

    def url(self, database: str) -> str:
        """A database of its Postgres."""
        return f"{self.postgres.rpartition('/')[0]}/{database}"


@contextmanager
def stack(*arguments: str) -> Iterator[Stack]:
    """Start it; or use the one whose addresses are in KAFKA_STACK, a file."""
    running = os.environ.get("KAFKA_STACK")
    if running and not arguments:
        yield Stack(**json.loads(Path(running).read_text()))
        return
    if shutil.which("java") is None or shutil.which("mvn") is None:
        pytest.skip("Kafka and Debezium need a JDK and Maven")
    command = [sys.executable, str(HERE / "start.py"), "--stdin", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, "the stack did not start; its reason is on standard error"
            yield Stack(**json.loads(line))
        finally:
            process.send_signal(signal.SIGTERM)


def _command(pid: int) -> str:
    """The last words of a process's command line: a JVM's main class and its arguments."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return " ".join(words[-4:]).lower()


def _runs(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """What `condition` says, as soon as it is true. These services tell nobody when they are ready."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(_LOOK_SECONDS)
    return found


# --- topics ---------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Topic:
    """A topic of its own, written to without Debezium."""

    servers: str
    name: str = field(default_factory=lambda: f"t_{uuid4().hex[:12]}")
    partitions: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)

    def create(self) -> Topic:
        """Make it."""
        admin = KafkaAdminClient(bootstrap_servers=self.servers)
        try:
            admin.create_topics(
                [NewTopic(self.name, self.partitions, 1, topic_configs=dict(self.settings))]
            )
        finally:
            admin.close()
        return self

    def send(
        self,
        messages: Sequence[tuple[bytes | None, bytes | None]],
        *,
        partition: int | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Keys and values, in order; by the key's hash unless a partition is given."""
        producer = kafka.KafkaProducer(
            bootstrap_servers=self.servers, linger_ms=5, max_request_size=16 * 2**20
        )
        try:
            for key, value in messages:
                producer.send(
                    self.name, key=key, value=value, partition=partition, headers=list(headers)
                )
            producer.flush()
        finally:
            producer.close()

    def ends(self) -> dict[Partition, int]:
        """Where its partitions end."""
        consumer = Consumer(KafkaPlace(bootstrap_servers=(self.servers,)))
        try:
            return consumer.end([Partition(self.name, n) for n in range(self.partitions)])
        finally:
            consumer.close()

    def delete_before(self, offsets: Mapping[int, int]) -> None:
        """Let messages go as retention does."""
        admin = KafkaAdminClient(bootstrap_servers=self.servers)
        try:
            admin.delete_records(
                {
                    kafka.TopicPartition(self.name, number): offset
                    for number, offset in offsets.items()
                }
            )
        finally:
            admin.close()

    def add_partitions(self, count: int) -> None:
        """Have so many."""
        from kafka.admin import NewPartitions

        admin = KafkaAdminClient(bootstrap_servers=self.servers)
        try:
            admin.create_partitions({self.name: NewPartitions(total_count=count)})
        finally:
            admin.close()


def reset_group(servers: str, group: str, offsets: Mapping[Partition, int]) -> None:
    """Move a group that nobody is a member of."""
    consumer = kafka.KafkaConsumer(
        bootstrap_servers=servers, group_id=group, enable_auto_commit=False
    )
    try:
        theirs = {
            kafka.TopicPartition(one.topic, one.number): kafka.OffsetAndMetadata(offset)
            for one, offset in offsets.items()
        }
        consumer.assign(list(theirs))
        consumer.commit(theirs)
    finally:
        consumer.close(autocommit=False)


# --- connectors -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Connector:
    """A Debezium connector on a database of the stack."""

    stack: Stack
    name: str
    database: str

    @property
    def topic(self) -> str:
        """That of `public.docs`."""
        return f"{self.name}.public.docs"

    def put(self, **settings: str) -> None:
        """Register it, or change it; returns when it streams."""
        config = json.loads((HERE / "connector.json").read_text())
        del config["heartbeat.interval.ms"]
        config |= {
            "database.port": str(self.stack.postgres_port),
            "database.dbname": self.database,
            "topic.prefix": self.name,
            "slot.name": self.name,
            "publication.name": self.name,
            "poll.interval.ms": "50",
            **settings,
        }
        until(lambda: self._request("PUT", "/config", config) is not None, "the connector")
        self.wait_running()

    def wait_running(self) -> None:
        """Return when its task runs and its slot is read."""
        until(lambda: self.states() == ["RUNNING", "RUNNING"], "the connector's task")
        until(self._streams, "the connector's slot")

    def _streams(self) -> bool:
        with psycopg.connect(self.stack.postgres, autocommit=True) as connection:
            found = connection.execute(
                "SELECT active FROM pg_replication_slots WHERE slot_name = %s", (self.name,)
            ).fetchone()
        return found == (True,)

    def states(self) -> list[str]:
        """Of the connector and its tasks."""
        status = self._request("GET", "/status")
        if status is None:
            return []
        return [part["state"] for part in (status["connector"], *status["tasks"])]

    def stop(self) -> None:
        """Let it read no more, until `resume`."""
        until(lambda: self._request("PUT", "/stop") is not None, "the stop")
        until(lambda: self.states() == ["STOPPED"], "the connector's stop")

    def resume(self) -> None:
        """Go on."""
        until(lambda: self._request("PUT", "/resume") is not None, "the resumption")
        self.wait_running()

    def remove(self) -> None:
        """Delete it, and the slot that it leaves behind."""
        with suppress(OSError):
            self._request("DELETE", "")
        drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s"
        with psycopg.connect(self.stack.postgres, autocommit=True) as connection:

            def dropped() -> bool:
                try:
                    connection.execute(drop, (self.name,))
                except psycopg.errors.ObjectInUse:
                    return False
                return True

            until(dropped, "the slot")

    def _request(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - its own worker, on loopback
            f"{self.stack.connect}/connectors/{self.name}{path}",
            None if body is None else json.dumps(body).encode(),
            {"content-type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310
                text = reply.read()
        except urllib.error.HTTPError as error:
            with error:
                assert error.code in (404, 409, 500), error.read()
            return None
        except OSError:
            return None
        return json.loads(text) if text else {}
