"""What `script/bench sync` reads from and runs: a table with its slots, and the daemon as a process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Self

import psycopg

from backfill.preflight import Inspection, inspect
from benchmarks.sync_daemon import PIPELINE, Job
from bridge.config_tables import TableSettings
from bridge.postgres import slots
from bridge.postgres.connection import connect
from bridge.qdrant.channel import Endpoint

SLOT = "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the daemon writes. `name` is what the report calls it."""

    name: str
    endpoint: Endpoint
    null: bool


class Source:
    """The table, its publication, and a slot that stands before the changes to be measured."""

    def __init__(self, url: str, table: str) -> None:
        self.url = url
        self.table = table
        with connect(url, read_only=False) as connection:
            self.inspection: Inspection = inspect(connection, table, TableSettings())
            facts = slots.prepare(
                connection,
                slot=SLOT,
                publication=SLOT,
                tables=[self.inspection.table],
                pipeline=PIPELINE,
            )
        self._facts = facts.to_record()

    @contextmanager
    def slot(self, name: str) -> Iterator[dict[str, Any]]:
        """A slot of its own at the same place; the facts that a daemon is given."""
        self.execute("SELECT pg_copy_logical_replication_slot(%s, %s)", SLOT, name)
        ((start,),) = self.execute(
            "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = %s", name
        )
        try:
            yield {**self._facts, "slot": name, "start_lsn": str(start)}
        finally:
            self._drop(name)

    def pass_over(self) -> None:
        """Move the slot behind everything that has happened."""
        self.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_flush_lsn())", SLOT)

    def retained_bytes(self, name: str) -> int:
        """The log that a slot holds back."""
        ((retained,),) = self.execute(
            "SELECT (pg_current_wal_lsn() - confirmed_flush_lsn)::bigint FROM pg_replication_slots"
            " WHERE slot_name = %s",
            name,
        )
        return int(retained)

    def execute(self, statement: str, *arguments: object) -> list[tuple[Any, ...]]:
        """Run one statement."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            return list(connection.execute(statement, arguments).fetchall())

    def _drop(self, name: str) -> None:
        """Once whoever read from it is gone."""
        deadline = time.monotonic() + 30
        while True:
            try:
                self.execute("SELECT pg_drop_replication_slot(%s)", name)
                return
            except psycopg.errors.ObjectInUse:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


class DaemonProcess:
    """`benchmarks.sync_daemon` with one job."""

    def __init__(self, source: Source, place: Place, facts: dict[str, Any], until: str | None):
        job = Job(
            postgres_url=source.url,
            host=place.endpoint.host,
            port=place.endpoint.port,
            null=place.null,
            table=source.table,
            facts=facts,
            until=until,
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.sync_daemon"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(job)) + "\n")
        self._process.stdin.flush()

    def wait(self, event: str) -> dict[str, Any]:
        """The next line about this event."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told: dict[str, Any] = json.loads(line)
            if told["event"] == event:
                return told
        raise RuntimeError(f"the daemon ended with {self._process.wait()} before it was {event}")

    def end(self) -> dict[str, Any]:
        """Let it end; what it measured."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        told = self.wait("done")
        self._process.wait()
        return told

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


# --- one table -------------------------------------------------------------------------------------
