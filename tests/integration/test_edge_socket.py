"""Commands beside the process that has an `edge://` directory open: a daemon, a backfill.

The directory's path is longer than the address of a Unix socket may be.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from bridge.qdrant.edge_client import EdgeClient
from bridge.qdrant.edge_socket import SOCKET_NAME
from tests.support.command import Outcome, Running, bridge, config_file
from tests.support.comparison import Expectation, differences
from tests.support.daemons import PATIENCE_SECONDS, wait_streaming
from tests.support.databases import Database
from tests.support.jobs import KILLED
from tests.support.places import EdgePlace

ROWS = 300
NAME = "docs"
POISON = "'[3e38,3e38,3e38]'"
"""Its float32 norm overflows, which cosine cannot bear: the row is set aside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Table `docs`, followed into an edge directory."""

    database: Database
    directory: Path
    config: str

    @classmethod
    def make(cls, database: Database, tmp_path: Path, **more: Any) -> Self:
        database.execute("CREATE TABLE docs (id int PRIMARY KEY, body text, v vector(3))")
        database.execute(
            "INSERT INTO docs SELECT i, 'row ' || i, ARRAY[i, 1, 2]::real[]::vector"
            f" FROM generate_series(1, {ROWS}) i"
        )
        directory = tmp_path / ("long" * 30) / "edge"
        settings = {
            "pipeline": NAME,
            "postgres": {"url": database.url},
            "qdrant": {"url": f"edge://{directory}"},
            "tables": {"public.docs": {}},
            "sync": {"source": "postgres"},
            **more,
        }
        return cls(database=database, directory=directory, config=config_file(tmp_path, settings))

    @contextmanager
    def daemon(self, failpoints: str = "") -> Iterator[Running]:
        """`run`, once it streams."""
        with Running("run", "--config", self.config, failpoints=failpoints) as running:
            wait_streaming(running)
            yield running

    def command(self, *arguments: str) -> Outcome:
        return bridge(*arguments, "--config", self.config)

    def report(self, *arguments: str) -> dict[str, Any]:
        return self.command(*arguments, "--json").require().report

    def wait_now(self) -> None:
        self.command("status", "--wait", "now", f"--timeout={PATIENCE_SECONDS}").require()

    def start(self, *arguments: str) -> Running:
        return Running(*arguments, "--config", self.config)

    @property
    def socket(self) -> Path:
        return self.directory / SOCKET_NAME

    def require_equal(self) -> None:
        """The collection is the table; for the time when nobody has the directory open."""
        points = EdgePlace(self.directory).points(NAME)
        found = differences(self.database, "docs", points, Expectation(distances={"v": "cosine"}))
        assert found == [], found[:10]


@pytest.fixture
def pipeline(database: Database, tmp_path: Path) -> Pipeline:
    return Pipeline.make(database, tmp_path)


# --- beside a daemon --------------------------------------------------------------------------------


def test_commands_work_beside_a_daemon(pipeline: Pipeline) -> None:
    with pipeline.daemon() as running:
        assert stat.S_IMODE(pipeline.socket.stat().st_mode) == 0o600
        pipeline.database.execute("UPDATE docs SET body = 'changed' WHERE id <= 10")
        pipeline.wait_now()
        status = pipeline.report("status")
        assert status["phase"] == "streaming"
        assert status["tables"]["public.docs"]["rows_read"] == ROWS
        assert (
            status["tables"]["public.docs"]["patches"] + status["tables"]["public.docs"]["upserts"]
            >= 10
        )
        verified = pipeline.report("verify")
        assert verified["equal"] and verified["tables"]["public.docs"]["target"] == ROWS
        [resynced] = pipeline.report("resync", "public.docs")["requests"]
        assert (resynced["outcome"], resynced["rows"]) == ("done", ROWS)
        assert "another process" not in pipeline.command("doctor", "--json").require().err
        pipeline.command("plan", "--json").require()
        running.signal(signal.SIGTERM)
        running.finish().require()
    assert sorted(path.name for path in pipeline.directory.iterdir()) == ["LOCK", "collections"]
    pipeline.require_equal()


def test_dead_letters_beside_a_daemon(pipeline: Pipeline) -> None:
    with pipeline.daemon():
        pipeline.database.execute(f"INSERT INTO docs VALUES (7777, 'bad', {POISON})")
        pipeline.wait_now()
        listed = pipeline.report("dead-letters", "list")["dead_letters"]
        assert [letter["key"] for letter in listed] == ["7777"]
        assert pipeline.report("dead-letters", "show", "7777")["dead_letters"] == listed
        retried = pipeline.command("dead-letters", "retry", "--all", "--json").require(1).report
        assert (retried["written"], retried["kept"]) == (0, 1)
        pipeline.command("dead-letters", "drop", "7777").require()
        assert pipeline.report("dead-letters", "list")["dead_letters"] == []


def test_many_ask_at_once_while_rows_change(pipeline: Pipeline) -> None:
    with pipeline.daemon() as running:
        ended = threading.Event()
        faults: list[object] = []

        def read() -> None:
            client = EdgeClient(pipeline.directory)
            while not ended.is_set():
                points, following = client.scroll(NAME, limit=1000, with_vectors=True)
                if following is not None or not all(point.vectors for point in points):
                    faults.append(following)
            client.close()

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        with pipeline.start("resync", "public.docs", "--json") as resync:
            for number in range(20):
                pipeline.database.execute(f"UPDATE docs SET body = 'change {number}'")
            [resynced] = resync.finish().require().report["requests"]
        assert resynced["outcome"] == "done"
        pipeline.wait_now()
        with pipeline.start("verify", "--json") as one, pipeline.start("verify", "--json") as other:
            for verify in (one, other):
                assert verify.finish().require().report["equal"]
        ended.set()
        for reader in readers:
            reader.join()
        assert faults == []
        running.signal(signal.SIGTERM)
        running.finish().require()
    pipeline.require_equal()


def test_another_writer_is_refused_beside_a_daemon(pipeline: Pipeline) -> None:
    with pipeline.daemon() as running:
        for command in ("run", "sync postgres", "backfill pgvector"):
            refused = pipeline.command(*command.split()).require(2)
            assert f"in use by process {running.pid}" in refused.err
        held = pipeline.command("teardown", "--yes").require(3)
        assert f"process {running.pid}" in held.err and "LEASE_HELD" in held.err
        pipeline.wait_now()


# --- the holder's end -------------------------------------------------------------------------------


def test_after_a_kill_the_next_command_opens_the_directory_itself(pipeline: Pipeline) -> None:
    with pipeline.daemon() as running:
        running.kill()
        running.finish().require(KILLED)
    assert pipeline.socket.is_socket()
    assert pipeline.report("status")["phase"] == "streaming"
    pipeline.database.execute("DELETE FROM docs WHERE id > 290")
    assert pipeline.socket.is_socket(), "only who serves replaces it"
    [resynced] = pipeline.report("resync", "public.docs")["requests"]
    assert (resynced["outcome"], resynced["rows"]) == ("done", 290)
    assert not pipeline.socket.exists()
    pipeline.require_equal()
    removed = pipeline.report("teardown", "--yes")["removed"]
    assert removed[:2] == [f"slot bridge_{NAME}", f"publication bridge_{NAME}"]


def test_a_status_that_waits_does_not_keep_a_daemon_out(pipeline: Pipeline) -> None:
    with pipeline.daemon() as running:
        running.kill()
        running.finish().require(KILLED)
    stale = pipeline.socket.stat().st_ino
    pipeline.database.execute("INSERT INTO docs VALUES (5000, 'late', '[1,2,3]')")
    patience = f"--timeout={PATIENCE_SECONDS}"
    with pipeline.start("status", "--wait", "now", patience, "--json") as waiting:
        with pipeline.daemon():
            assert pipeline.socket.stat().st_ino != stale
            report = waiting.finish().require().report
        assert report["phase"] in ("catching_up", "streaming")


def test_a_holder_that_ends_in_the_middle_ends_who_waits_for_it(pipeline: Pipeline) -> None:
    with pipeline.daemon(failpoints="resync.before_extras:kill@1") as running:
        left = pipeline.command("resync", "public.docs").require(4)
        assert f"process {running.pid}, which had edge://{pipeline.directory} open" in left.err
        assert "is started again" in left.err
        running.finish().require(KILLED)
    with pipeline.daemon():
        pipeline.wait_now()
        pipeline.command("resync", "public.docs").require()


# --- beside a backfill ------------------------------------------------------------------------------


def test_a_backfill_can_be_looked_at(database: Database, tmp_path: Path) -> None:
    pipeline = Pipeline.make(
        database, tmp_path, migration={"batch_delay_milliseconds": 100, "batch_size": 20}
    )
    with pipeline.start("backfill", "pgvector") as running:
        with _stopped_workers(running):
            status = pipeline.report("status")
            refused = pipeline.command("resync", "public.docs").require(2)
        assert (status["phase"], status["complete"]) == ("backfill", False)
        assert "no stream yet" in refused.err
        running.finish().require()
    assert pipeline.report("status")["complete"]
    assert not pipeline.socket.exists()
    pipeline.require_equal()


@contextmanager
def _stopped_workers(running: Running) -> Iterator[None]:
    """The copy stands still meanwhile; its parent does not."""
    running.wait_line("chunks to copy")
    while not (workers := running.workers):
        assert running.process.poll() is None
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGCONT)
