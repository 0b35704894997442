"""Everything at once, at random, for as long as it is let: does Qdrant end up equal to Postgres?

    python -m tests.faults.soak --seconds 3600 --seed 7

Several connections write at random (tests/support/soak_workload.py) while the daemon is killed and ended,
its connections terminated, Postgres restarted without a checkpoint, Qdrant made to fail in every way that
the test server knows. All the while every point is watched for going back to an older version. With
`QDRANT_URL` it runs against that server, without the faults of the test server.

The seed fixes what is chosen, not how the choices interleave. Exit code 1, and the reasons, if anything
was not as it has to be.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psycopg

from bridge.postgres.embedded import EmbeddedPostgres, Version
from tests.support.command import bridge, config_file
from tests.support.comparison import Expectation, differences
from tests.support.databases import SETTINGS, Database, fresh_database
from tests.support.places import REAL, ServerPlace, open_server
from tests.support.soak_faults import add_fault, kill_for_a_while
from tests.support.soak_watch import Followed, Watcher
from tests.support.soak_workload import SCHEMA, TABLES, Workload

DRAIN_SECONDS: Final = 30
END_SECONDS: Final = 300
# Half of what is done to it comes when it has recovered from the thing before, if that takes no longer.
RECOVERY_SECONDS: Final = 20.0


@dataclass(slots=True, kw_only=True)
class Report:
    """What was done, how often, and what was wrong."""

    seed: int
    seconds: float
    done: Counter[str] = field(default_factory=Counter)
    statements: Counter[str] = field(default_factory=Counter)
    looks: int = 0
    streamed: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        def told(counts: Counter[str]) -> str:
            return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))

        lines = [
            f"seed {self.seed}, {self.seconds:.0f} s",
            f"statements: {told(self.statements)}",
            f"done to it: {told(self.done)}",
            f"streaming {self.streamed} times, all points looked at {self.looks} times",
        ]
        return "\n".join([*lines, *(f"PROBLEM {text}" for text in self.problems)])


class Soak:
    """One run: `run` returns its report."""

    def __init__(self, database: Database, place: ServerPlace, directory: Path, seed: int) -> None:
        self._database = database
        self._place = place
        self._numbers = random.Random(seed)
        self._report = Report(seed=seed, seconds=0)
        self._pause = threading.Event()
        for statement in SCHEMA:
            database.execute(statement)
        self._name = place.name("s").lower()
        self._collections = {table: place.name(f"{table}").lower() for table in TABLES}
        settings = {
            "pipeline": self._name,
            "postgres": {"url": database.url},
            "qdrant": {"url": place.url},
            "tables": {
                f"public.{table}": {
                    "collection": collection,
                    "vectors": {"v": {"distance": "euclid"}, "w": {"distance": "euclid"}},
                }
                for table, collection in self._collections.items()
            },
            "sync": {"source": "postgres", "window": {"operations": 300}},
            "http": {"listen": "127.0.0.1:0"},
        }
        self._config = config_file(directory, settings)
        self._watcher = Watcher(place.client, self._collections)
        self._daemon = self._start()

    def run(self, seconds: float) -> Report:
        """Let it run, then let it settle, and compare."""
        workload = Workload(self._database, self._report.seed)
        try:
            self._daemon.wait_line('"streaming"', 60)
            began = time.monotonic()
            workload.start()
            self._watcher.start()
            while time.monotonic() - began < seconds and not self._report.problems:
                if self._numbers.random() < 0.5:
                    self._daemon.await_streaming(RECOVERY_SECONDS)
                self._pause.wait(self._numbers.uniform(0.2, 2.5))
                self._do_something()
            self._settle(workload)
            self._report.problems += self._watcher.problems
        finally:
            self._watcher.stop()
            self._end_daemon()
        self._report.seconds = time.monotonic() - began
        self._report.looks = self._watcher.looks
        self._report.statements = workload.done
        return self._report

    def _start(self) -> Followed:
        return Followed(self._watcher, "run", "--config", self._config, environment={})

    # --- what is done to it ---------------------------------------------------------------------

    def _do_something(self) -> None:
        choices: list[tuple[str, int, Callable[[], None]]] = [
            ("daemon killed", 4, self._kill),
            ("daemon ended", 2, self._terminate),
            ("backends terminated", 3, self._terminate_backends),
            ("Postgres crashed", 1, self._crash_postgres),
            ("resync", 1, self._resync),
        ]
        if self._place.server is not None:
            choices += [("fault", 12, self._add_fault), ("Qdrant killed", 2, self._kill_qdrant)]
        kinds = {name: action for name, _weight, action in choices}
        (name,) = self._numbers.choices(
            [name for name, _weight, _action in choices],
            weights=[weight for _name, weight, _action in choices],
        )
        if self._daemon.process.poll() is not None:
            self._problem("the daemon ended by itself:\n" + "".join(self._daemon._lines[-6:]))
            return
        kinds[name]()
        self._report.done[name] += 1

    def _problem(self, text: str) -> None:
        self._report.problems.append(text)

    def _kill(self) -> None:
        self._daemon.kill()
        self._restart()

    def _terminate(self) -> None:
        # From the moment that it answers on, SIGTERM ends it in order.
        self._daemon.wait_line('"listening"', 60)
        began = time.monotonic()
        self._daemon.signal(signal.SIGTERM)
        code = self._daemon.process.wait(DRAIN_SECONDS + 10)
        if code != 0 or time.monotonic() - began > DRAIN_SECONDS:
            self._problem(f"SIGTERM: exit {code} after {time.monotonic() - began:.1f} s")
        self._restart()

    def _restart(self) -> None:
        self._end_daemon()
        self._daemon = self._start()

    def _end_daemon(self) -> None:
        self._daemon.__exit__(None, None, None)
        self._report.streamed += self._daemon.events["streaming"]

    def _terminate_backends(self) -> None:
        name = self._numbers.choice(("qdrant-bridge", "%"))
        try:
            self._database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ="
                " current_database() AND pid <> pg_backend_pid() AND application_name LIKE %s",
                (name,),
            )
        except psycopg.OperationalError:
            return

    def _crash_postgres(self) -> None:
        self._database.server.restart("immediate")

    def _resync(self) -> None:
        table = self._numbers.choice(TABLES)
        bridge("resync", f"public.{table}", "--no-wait", "--config", self._config)

    def _add_fault(self) -> None:
        assert self._place.server is not None
        add_fault(self._place.server, self._numbers)

    def _kill_qdrant(self) -> None:
        assert self._place.server is not None
        kill_for_a_while(self._place.server, self._numbers, self._pause)

    # --- the end --------------------------------------------------------------------------------

    def _settle(self, workload: Workload) -> None:
        if self._place.server is not None:
            self._place.server.faults.clear()
        workload.stop()
        self._compare("docs")
        # Rows that DDL changed without events are told again.
        self._database.execute("UPDATE notes SET version = nextval('versions')")
        self._compare("notes")
        letters = self._place.records(self._name, "dead_letter")
        if letters:
            self._problem(f"dead letters: {sorted(letters)[:10]}")

    def _compare(self, table: str) -> None:
        ((lsn,),) = self._database.execute("SELECT pg_current_wal_lsn()::text")
        wait = ("status", "--wait", lsn, "--timeout=5", "--config", self._config)
        until = time.monotonic() + END_SECONDS
        while (waited := bridge(*wait)).code != 0:
            if time.monotonic() > until or self._daemon.process.poll() is not None:
                log = "".join(self._daemon._lines[-8:])
                self._problem(f"{table} was never caught up with: {waited.err}{log}")
                return
        expected = Expectation(distances={"v": "euclid", "w": "euclid"})
        stored = self._place.points(self._collections[table])
        found = differences(self._database, table, stored, expected)
        if found:
            self._problem(f"{table}: {len(found)} differences: {found[:10]}")


def soak(seconds: float, seed: int, directory: Path, *, version: Version = "18") -> Report:
    """Run it on servers of its own, or on the Qdrant of `QDRANT_URL`."""
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedPostgres.temporary(version, SETTINGS))
        database = stack.enter_context(fresh_database(server))
        if REAL:
            place = ServerPlace(REAL)
            stack.callback(place.close)
        else:
            place = stack.enter_context(open_server(directory))
        return Soak(database, place, directory, seed).run(seconds)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Everything at once, at random")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--postgres", choices=("16", "18"), default="18")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        report = soak(
            arguments.seconds, arguments.seed, Path(directory), version=arguments.postgres
        )
    print(report, flush=True)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
