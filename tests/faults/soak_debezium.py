"""Everything at once, at random, through Debezium and Kafka: does Qdrant end up equal to Postgres?

    python -m tests.faults.soak_debezium --seconds 600 --seed 7

The workload is that of the direct path's soak (tests/support/soak_workload.py), and a partitioned table
whose partitions have a topic each and are truncated one by one. A group of up to three processes reads,
while they are killed and ended and others join; Kafka Connect and the broker are killed, the connector
is stopped, the group is rewound, messages that nobody can read come in between, tables are truncated and
read again, and Qdrant fails in the ways that the test server knows.

What is watched is the end: Kafka orders a partition, and older versions may pass after a rebalance. The
seed fixes what is chosen, not how the choices interleave. Exit code 1, and the reasons, if anything was
not as it has to be.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, cast

import psycopg

from bridge import requests
from bridge.errors import Unreachable
from bridge.postgres.embedded import EmbeddedPostgres
from bridge.qdrant.channel import endpoint
from bridge.qdrant.server import ServerTarget
from bridge.qdrant.state import QdrantState
from sync.kafka_partition import Partition
from tests.faults.soak import Report
from tests.support.command import Running, bridge, config_file
from tests.support.comparison import Expectation, differences
from tests.support.databases import Database
from tests.support.kafka_stack import Connector, Stack, Topic, reset_group, stack
from tests.support.places import ServerPlace, open_server
from tests.support.soak_faults import add_fault, kill_for_a_while
from tests.support.soak_workload import SCHEMA, Workload
from tests.support.writers import Statement, Writers

END_SECONDS: Final = 60.0
# Without anything that is read.
MOST_PROCESSES: Final = 3
_SESSION_SECONDS: Final = 6
_LEAVES: Final = 2
_KEYS: Final = 400
_PARTITIONS: Final[Mapping[str, tuple[str, int]]] = {
    "docs": ("docs", 4),
    "notes": ("notes", 1),
    **{f"parts_{leaf}": ("parts", 2) for leaf in range(_LEAVES)},
}
"""Where rows lie: of which table, and the number of the topic's partitions."""
_TABLES: Final = ("docs", "notes", "parts")
_PARTS: Final = (
    "CREATE TABLE parts (id int PRIMARY KEY, version bigint NOT NULL, title text, price int,"
    " v vector(600), w halfvec(3)) PARTITION BY HASH (id)",
    *(
        f"CREATE TABLE parts_{leaf} PARTITION OF parts"
        f" FOR VALUES WITH (MODULUS {_LEAVES}, REMAINDER {leaf})"
        for leaf in range(_LEAVES)
    ),
    "INSERT INTO parts SELECT i, nextval('versions'), 't', i, vec(i), NULL"
    " FROM generate_series(1, 200) i",
)


class Soak:
    """One run: `run` returns its report."""

    def __init__(self, running: Stack, place: ServerPlace, directory: Path, seed: int) -> None:
        self._stack = running
        self._place = place
        self._numbers = random.Random(seed)
        self._report = Report(seed=seed, seconds=0)
        self._pause = threading.Event()
        self._processes: list[Running] = []
        self._name = place.name("z").lower()
        self._database = self._make_database()
        self._topics = {
            leaf: Topic(
                servers=running.kafka, name=f"{self._name}.public.{leaf}", partitions=count
            ).create()
            for leaf, (_table, count) in _PARTITIONS.items()
        }
        self._collections = {table: place.name(table).lower() for table in _TABLES}
        self._config = config_file(directory, self._settings())
        self._target = ServerTarget(endpoint(place.url, api_key=None))
        self._connector = Connector(stack=running, name=self._name, database=self._name)
        self._connector.put(
            **{
                "snapshot.mode": "no_data",
                "table.include.list": ",".join(f"public.{leaf}" for leaf in _PARTITIONS),
            }
        )

    def _make_database(self) -> Database:
        with psycopg.connect(self._stack.postgres, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{self._name}"')
        database = Database(
            name=self._name, url=self._stack.url(self._name), server=cast(EmbeddedPostgres, None)
        )
        for statement in ("CREATE EXTENSION vector", *SCHEMA, *_PARTS):
            database.execute(statement)
        return database

    def _settings(self) -> dict[str, Any]:
        return {
            "pipeline": self._name,
            "postgres": {"url": self._database.url},
            "qdrant": {"url": self._place.url},
            "tables": {
                f"public.{table}": {
                    "collection": collection,
                    "vectors": {"v": {"distance": "euclid"}, "w": {"distance": "euclid"}},
                }
                for table, collection in self._collections.items()
            },
            "sync": {"source": "debezium", "window": {"operations": 300}},
            "kafka": {
                "bootstrap_servers": self._stack.kafka,
                "topics": {
                    self._topics[leaf].name: f"public.{table}"
                    for leaf, (table, _count) in _PARTITIONS.items()
                },
                "session_timeout_seconds": _SESSION_SECONDS,
            },
            "http": {"listen": "127.0.0.1:0"},
        }

    def run(self, seconds: float) -> Report:
        """Let it run, then let it settle, and compare."""
        workload = Workload(self._database, self._report.seed)
        writers = Writers(self._database, _change_part, seed=self._report.seed, connections=2)
        began = time.monotonic()
        try:
            self._start().wait_line('"assigned"', 60)
            began = time.monotonic()
            workload.start()
            with writers:
                while time.monotonic() - began < seconds and not self._report.problems:
                    self._pause.wait(self._numbers.uniform(0.2, 3.0))
                    self._do_something()
            self._settle(workload)
        finally:
            for process in list(self._processes):
                process.__exit__(None, None, None)
            self._connector.remove()
            self._target.close()
        self._report.seconds = time.monotonic() - began
        self._report.statements = workload.done
        return self._report

    def _problem(self, text: str) -> None:
        self._report.problems.append(text)

    # --- processes ------------------------------------------------------------------------------

    def _start(self) -> Running:
        # On SIGABRT it tells where each of its threads is.
        process = Running("run", "--config", self._config, environment={"PYTHONFAULTHANDLER": "1"})
        self._processes.append(process)
        return process

    def _require_alive(self) -> None:
        for process in self._processes:
            if process.process.poll() is not None:
                log = "".join(process._lines[-6:])
                self._problem(f"a process ended by itself:\n{log}")

    def _forget(self, process: Running) -> None:
        process.__exit__(None, None, None)
        self._processes.remove(process)

    def _kill(self) -> None:
        process = self._numbers.choice(self._processes)
        process.kill()
        self._forget(process)
        self._start()

    def _end(self, process: Running) -> None:
        process.wait_line('"listening"', 60)
        process.signal(signal.SIGTERM)
        began = time.monotonic()
        code = process.process.wait(45)
        if code != 0 or time.monotonic() - began > 31:
            self._problem(f"SIGTERM: exit {code} after {time.monotonic() - began:.1f} s")
        self._forget(process)

    def _leave(self) -> None:
        self._end(self._numbers.choice(self._processes))
        if not self._processes:
            self._start()

    def _join(self) -> None:
        if len(self._processes) < MOST_PROCESSES:
            self._start()

    def _rewind(self) -> None:
        """Some messages of some partitions, or of all, while nobody is a member."""
        for process in list(self._processes):
            self._end(process)
        report = self._status()
        offsets = {
            Partition(topic, part["partition"]): part["offset"]
            for topic, found in report["kafka"]["topics"].items()
            for part in found["partitions"]
        }
        back = self._numbers.choice((10, 300, 3000))
        some = self._numbers.choice((len(offsets), min(2, len(offsets))))
        chosen = self._numbers.sample(sorted(offsets), some)
        places = {one: max(0, offsets[one] - back) for one in chosen}
        reset_group(self._stack.kafka, f"bridge_{self._name}", places)
        self._start()

    def _status(self) -> Any:
        """The report. It is not to be had while what was done to Qdrant or to the broker lasts."""
        until = time.monotonic() + END_SECONDS
        while (outcome := bridge("status", "--json", "--config", self._config)).code != 0:
            assert time.monotonic() < until, outcome.err
            self._pause.wait(0.5)
        return outcome.report

    # --- what is done to it ---------------------------------------------------------------------

    def _do_something(self) -> None:
        choices: list[tuple[str, int, Callable[[], None]]] = [
            ("process killed", 5, self._kill),
            ("process ended", 3, self._leave),
            ("process joined", 6, self._join),
            ("Connect killed", 1, lambda: self._stack.kill("connectdistributed")),
            ("broker killed", 1, lambda: self._stack.kill("kafka.kafka")),
            ("connector stopped", 1, self._stop_connector),
            ("group rewound", 1, self._rewind),
            ("unreadable message", 2, self._corrupt),
            ("table truncated", 2, self._truncate),
            ("resync", 3, self._resync),
            ("retry", 1, self._retry),
            ("backends terminated", 2, self._terminate_backends),
            ("fault", 8, self._add_fault),
            ("Qdrant killed", 2, self._kill_qdrant),
        ]
        self._require_alive()
        if self._report.problems:
            return
        weights = [weight for _name, weight, _action in choices]
        ((name, _weight, action),) = self._numbers.choices(choices, weights=weights)
        action()
        self._report.done[name] += 1

    def _stop_connector(self) -> None:
        self._connector.stop()
        self._pause.wait(self._numbers.uniform(0.0, 3.0))
        self._connector.resume()

    def _corrupt(self) -> None:
        topic = self._topics[self._numbers.choice(list(self._topics))]
        row = self._numbers.randrange(1, _KEYS)
        value = self._numbers.choice((b"\xff not JSON", b'{"op":"x","source":{}}', b"[]"))
        topic.send([(f'{{"id":{row}}}'.encode(), value)])

    def _truncate(self) -> None:
        name = self._numbers.choice(("docs", "notes", "parts", *[f"parts_{n}" for n in (0, 1)]))
        self._database.execute(f"TRUNCATE {name}")

    def _resync(self) -> None:
        table = self._numbers.choice(_TABLES)
        bridge("resync", f"public.{table}", "--no-wait", "--config", self._config)

    def _retry(self) -> None:
        """As if rows had been set aside: any rows are read again."""
        assert self._place.server is not None
        table = self._numbers.choice(_TABLES)
        keys = tuple(str(self._numbers.randrange(1, _KEYS)) for _ in range(30))
        store = QdrantState(self._target, self._name)
        try:
            requests.ask(store, requests.make("retry", f"public.{table}", keys=keys))
        except Unreachable:
            return

    def _terminate_backends(self) -> None:
        self._database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ="
            " current_database() AND application_name LIKE 'qdrant-bridge%'"
        )

    def _add_fault(self) -> None:
        assert self._place.server is not None
        add_fault(self._place.server, self._numbers)

    def _kill_qdrant(self) -> None:
        assert self._place.server is not None
        kill_for_a_while(self._place.server, self._numbers, self._pause)

    # --- the end --------------------------------------------------------------------------------

    def _settle(self, workload: Workload) -> None:
        assert self._place.server is not None
        self._place.server.faults.clear()
        workload.stop()
        self._require_alive()
        if self._report.problems:
            return
        for table in ("docs", "parts"):
            self._compare(table)
        # Rows that DDL changed without events are told again.
        self._database.execute("UPDATE notes SET version = nextval('versions')")
        self._compare("notes")
        if self._report.problems:
            return
        self._compare_letters()

    def _compare(self, table: str) -> None:
        expected = Expectation(distances={"v": "euclid", "w": "euclid"})
        until, most = time.monotonic() + END_SECONDS, -1
        while True:
            self._require_alive()
            if self._report.problems:
                return
            report = self._status()
            left = report["lag"]["messages"]
            read = sum(
                part["offset"]
                for topic in report["kafka"]["topics"].values()
                for part in topic["partitions"]
            )
            if read > most:
                # A busy machine: as long as it goes on, it is waited for.
                until, most = time.monotonic() + END_SECONDS, read
            found = [] if left else self._found(table, expected)
            if not left and not found:
                return
            if time.monotonic() > until:
                told = f"{len(found)} differences: {found[:6]}, {left} messages behind"
                self._problem(f"{table}: {told}\n{self._whereabouts(report)}")
                return
            self._pause.wait(1.0)

    def _whereabouts(self, report: Any) -> str:
        """What the processes have said, where they are, and which partitions are behind."""
        parts: list[str] = []
        for process in self._processes:
            process.signal(signal.SIGABRT)
            process.process.wait(30)
            parts.append("".join(process.finish().err.splitlines(keepends=True)[-90:]))
        for topic, found in report["kafka"]["topics"].items():
            behind = [part for part in found["partitions"] if part["offset"] < part["end"]]
            parts.append(f"{topic}: {behind}")
        return "\n".join(parts)

    def _found(self, table: str, expected: Expectation) -> list[str]:
        stored = self._place.points(self._collections[table])
        return differences(self._database, table, stored, expected)

    def _compare_letters(self) -> None:
        """Only what was unreadable is set aside, and its rows can be written as they are."""
        letters = self._place.records(self._name, "dead_letter")
        if not letters:
            return
        if not self._report.done["unreadable message"]:
            self._problem(f"dead letters: {sorted(letters.items())[:6]}")
            return
        retried = bridge("dead-letters", "retry", "--all", "--config", self._config)
        left = self._place.records(self._name, "dead_letter")
        if retried.code != 0 or left:
            self._problem(f"dead letters stay: {retried.err} {sorted(left.items())[:6]}")
        for table in _TABLES:
            self._compare(table)


def _change_part(numbers: random.Random, connection: int) -> Statement:
    """Some change of some row of the partitioned table."""
    key, other, n = (numbers.randrange(1, _KEYS) for _ in range(3))
    own = other - other % 2 + connection
    version = "version = nextval('versions')"
    statements: list[tuple[int, str, tuple[Any, ...]]] = [
        (
            6,
            "INSERT INTO parts VALUES (%s, nextval('versions'), %s, %s, vec(%s), '[1,2,3]')",
            (own, f"t{n}", n, n),
        ),
        (6, f"UPDATE parts SET {version}, price = %s WHERE id = %s", (n, key)),
        (2, f"UPDATE parts SET {version}, v = vec(%s) WHERE id = %s", (n, key)),
        (2, f"UPDATE parts SET {version}, id = %s WHERE id = %s", (own, key)),
        (3, "DELETE FROM parts WHERE id = %s", (key,)),
    ]
    (chosen,) = numbers.choices(statements, [weight for weight, _sql, _values in statements])
    return chosen[1], chosen[2]


def soak(seconds: float, seed: int, directory: Path, running: Stack) -> Report:
    """Run it on a stack."""
    with open_server(directory) as place:
        return Soak(running, place, directory, seed).run(seconds)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Everything at once, at random, through Kafka")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with ExitStack() as scope:
        running = scope.enter_context(stack())
        directory = Path(scope.enter_context(tempfile.TemporaryDirectory()))
        report = soak(arguments.seconds, arguments.seed, directory, running)
    print(report, flush=True)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
