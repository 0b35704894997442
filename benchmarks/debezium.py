"""`script/bench debezium`: how fast one process reads a filled topic, and what it needs for that.

In one run, for messages as Debezium writes them (JSON without schemas, an envelope, one vector):

    orjson.loads     the same values parsed and thrown away: what no consumer of JSON can do without
    Kafka's client   the same messages fetched and thrown away
    null target      the process of `sync debezium` against a server that acknowledges everything

Time runs from the assignment of the partition to the last offset that is durable. The broker is a real
one on the same cores; its CPU is not counted.

python -m benchmarks.debezium     takes a `Job` as JSON on standard input: the reading process
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import orjson

from benchmarks.backfill import null_server, say
from benchmarks.measure import forget_peak, machine, resident_bytes, usage
from benchmarks.sync_daemon import MemoryState, NullTarget
from bridge.config_tables import TableSettings
from bridge.kafka_state import RECORD_NAME, KafkaState, TopicState
from bridge.map_table import map_table
from bridge.postgres import catalog
from bridge.postgres.connection import connect
from bridge.postgres.embedded import EmbeddedPostgres
from bridge.qdrant.channel import Endpoint
from bridge.qdrant.target import CollectionState
from bridge.state import Kind, Record
from sync.daemon import tune_collector
from sync.debezium_daemon import KafkaDaemon
from sync.debezium_modes import Modes
from sync.debezium_options import KafkaOptions
from sync.kafka import Consumer, Membership, Rebalance
from sync.kafka_partition import Partition
from sync.kafka_place import KafkaPlace
from sync.windows import Limits
from tests.support.kafka_stack import Topic, stack

TABLE = "docs"
LIMITS = Limits(operations=2000, size_bytes=16 * 2**20, seconds=0.05)
_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to read. `only`: `client` fetches and throws away."""

    kafka: str
    topic: str
    messages: int
    postgres_url: str
    host: str
    port: int
    only: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measurement of one dimension."""

    dimension: int
    reader: str
    messages: int
    events_per_second: int
    mb_per_second: float
    cpu_us_per_event: float | None = None
    peak_mib: int | None = None


class GroupState(MemoryState):
    """Records in memory, with owners."""

    def put_if(
        self, kind: Kind, name: str, record: Record, *, matching: Mapping[str, str]
    ) -> Record | None:
        stored = self.get(kind, name)
        if stored is not None and all(stored[key] == text for key, text in matching.items()):
            self.put(kind, name, record)
        return self.get(kind, name)


# --- the reading process ---------------------------------------------------------------------------


def read(job: Job) -> dict[str, Any]:
    """Read the topic to its end; seconds, CPU and memory."""
    tune_collector()
    place = KafkaPlace(bootstrap_servers=(job.kafka,))
    if job.only == "client":
        return _fetched(job, place)
    with connect(job.postgres_url) as connection:
        spec = map_table(
            catalog.read_table(connection, None, TABLE), TableSettings(), {}
        ).collection
    state = CollectionState(
        name=spec.name, vectors=spec.vectors, payload_indexes=spec.payload_indexes
    )
    target = NullTarget(Endpoint(host=job.host, port=job.port, tls=False), state)
    store = GroupState(target, "bench")
    topics = {job.topic: TopicState(table="public.docs", begin=(0,), end=(0,))}
    record = KafkaState(group=job.topic, topics=topics, copied=True, phase="reading")
    store.put("stream", RECORD_NAME, record.to_record())
    began = threading.Event()
    daemon = KafkaDaemon(
        {"public.docs": TableSettings()},
        target=target,
        store=store,
        options=KafkaOptions(
            place=place,
            membership=Membership(
                group=job.topic, session_timeout_seconds=45, fetch_bytes=LIMITS.size_bytes
            ),
            topics={job.topic: "public.docs"},
            modes=Modes(told=True),
            postgres_url=job.postgres_url,
            allow_plaintext=False,
            limits=LIMITS,
        ),
        log=lambda event, **fields: began.set() if event == "assigned" else None,
    )
    running = threading.Thread(target=daemon.run, daemon=True)
    running.start()
    assert began.wait(_SECONDS)
    forget_peak()
    before = usage()
    while not any(one.offset >= job.messages for one in daemon.partitions):
        assert running.is_alive()
        time.sleep(0.005)
    after = usage()
    daemon.stop()
    running.join()
    return _told(before.wall, after.wall, before.cpu, after.cpu)


def _told(began: float, ended: float, cpu: float, cpu_after: float) -> dict[str, Any]:
    return {
        "seconds": ended - began,
        "cpu_seconds": cpu_after - cpu,
        "peak_bytes": resident_bytes([os.getpid()]),
    }


class _FromTheBeginning(Rebalance):
    """Starts what is assigned."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self.began = threading.Event()

    def assigned(self, partitions: list[Partition]) -> None:
        for one in partitions:
            self._consumer.start(one, 0)
        self.began.set()

    def revoked(self, partitions: list[Partition]) -> None:
        """Nothing is kept."""

    def lost(self, partitions: list[Partition]) -> None:
        """Nothing is kept."""


def _fetched(job: Job, place: KafkaPlace) -> dict[str, Any]:
    membership = Membership(
        group=f"{job.topic}_fetched", session_timeout_seconds=45, fetch_bytes=LIMITS.size_bytes
    )
    consumer = Consumer(place, membership)
    rebalance = _FromTheBeginning(consumer)
    consumer.subscribe([job.topic], rebalance)
    left = job.messages
    while not rebalance.began.is_set():
        left -= len(consumer.poll(0.1))
    before = usage()
    while left > 0:
        left -= len(consumer.poll(0.1))
    after = usage()
    consumer.close()
    return _told(before.wall, after.wall, before.cpu, after.cpu)


# --- the run ---------------------------------------------------------------------------------------


def messages_of(dimension: int, count: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values as Debezium writes inserts; random components, 64 different vectors."""
    draw = np.random.default_rng(7)
    vectors = [
        orjson.Fragment(
            orjson.dumps([float(str(x)) for x in draw.standard_normal(dimension, "f4")])
        )
        for _ in range(64)
    ]
    for number in range(count):
        body = f"row {number} " + "lorem ipsum dolor sit amet " * 3
        source = {
            "version": "3.7.0.Final", "connector": "postgresql", "name": "shop",
            "ts_ms": 1795401705777, "snapshot": "false", "db": "shop",
            "sequence": '["28820696","28820696"]', "ts_us": 1795401705777022,
            "ts_ns": 1795401705777022000, "schema": "public", "table": TABLE, "txId": 760,
            "lsn": 28820696 + number, "xmin": None, "origin": None, "origin_lsn": None,
        }  # fmt: skip
        value = {
            "before": None,
            "after": {"id": number, "body": body, "e": vectors[number % 64]},
            "source": source, "transaction": None, "op": "c", "ts_ms": 1795401705820,
            "ts_us": 1795401705820423, "ts_ns": 1795401705820423905,
        }  # fmt: skip
        yield b'{"id":%d}' % number, orjson.dumps(value)


def run(*, rows: int, dimension: int, waiting: int = 0) -> dict[str, Any]:
    """All figures of one dimension, and the ratio to `orjson.loads`. `waiting`: messages in the topic
    beside those that are read, to see that memory does not depend on them."""
    figures: list[Figure] = []
    with (
        EmbeddedPostgres.temporary("18", {"fsync": "off"}) as postgres,
        stack("--no-postgres", "--no-connect") as kafka,
        null_server() as null,
    ):
        url = postgres.url()
        _make_table(url, dimension)
        size, seconds = _parsed(dimension, rows)
        figures.append(_figure(dimension, "orjson.loads", rows, size, seconds))
        total = max(rows, waiting)
        topic = Topic(servers=kafka.kafka).create()
        _fill(topic, dimension, total)
        for reader, only in (("Kafka's client", "client"), ("null target", "")):
            job = Job(
                kafka=kafka.kafka,
                topic=topic.name,
                messages=total,
                postgres_url=url,
                host=null.host,
                port=null.port,
                only=only,
            )
            told = _in_a_process(job)
            figures.append(
                _figure(dimension, reader, total, size * total // rows, told["seconds"], told)
            )
    rates = {figure.reader: figure.events_per_second for figure in figures}
    return {
        "machine": machine(),
        "figures": [asdict(figure) for figure in figures],
        "ratios": {
            "null target to orjson.loads": round(rates["null target"] / rates["orjson.loads"], 3)
        },
    }


def _make_table(url: str, dimension: int) -> None:
    with connect(url, read_only=False) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute(
            f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, body text, e vector({dimension}))"
        )


def _fill(topic: Topic, dimension: int, count: int) -> None:
    part: list[tuple[bytes | None, bytes | None]] = []
    for key, value in messages_of(dimension, count):
        part.append((key, value))
        if len(part) == 10_000:
            topic.send(part, partition=0)
            part.clear()
    topic.send(part, partition=0)


def _parsed(dimension: int, rows: int) -> tuple[int, float]:
    """(bytes, seconds) of parsing as many values."""
    values = [value for _key, value in messages_of(dimension, min(rows, 5000))]
    began = time.perf_counter()
    for value in values:
        orjson.loads(value)
    seconds = time.perf_counter() - began
    return sum(map(len, values)) * rows // len(values), seconds * rows / len(values)


def _figure(
    dimension: int,
    reader: str,
    messages: int,
    size_bytes: int,
    seconds: float,
    told: Mapping[str, Any] | None = None,
) -> Figure:
    figure = Figure(
        dimension=dimension,
        reader=reader,
        messages=messages,
        events_per_second=round(messages / seconds),
        mb_per_second=round(size_bytes / seconds / 1e6, 1),
        cpu_us_per_event=None if told is None else round(told["cpu_seconds"] / messages * 1e6, 1),
        peak_mib=None if told is None else round(told["peak_bytes"] / 2**20),
    )
    cpu = "" if figure.cpu_us_per_event is None else f"  {figure.cpu_us_per_event:6.1f} us CPU"
    memory = "" if figure.peak_mib is None else f"  {figure.peak_mib:4} MiB"
    say(
        f"{figure.reader:<16}{figure.dimension:>5}-d{figure.events_per_second:>10,} events/s"
        f"{figure.mb_per_second:>8,.1f} MB/s{cpu}{memory}"
    )
    return figure


@contextmanager
def _process(job: Job) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.debezium"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(asdict(job)) + "\n")
        process.stdin.flush()
        yield process


def _in_a_process(job: Job) -> dict[str, Any]:
    with _process(job) as process:
        assert process.stdout is not None
        told: dict[str, Any] = json.loads(process.stdout.readline())
        return told


def main() -> None:
    """Read, and tell what it came to."""
    print(json.dumps(read(Job(**json.loads(sys.stdin.readline())))), flush=True)


if __name__ == "__main__":
    main()
