"""`resync`, and dead letters through the daemon: merged into the running stream."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bridge import requests
from bridge.postgres.embedded import EmbeddedPostgres
from bridge.requests import Request
from tests.support.command import Running
from tests.support.daemons import Pipeline, wait_streaming
from tests.support.databases import Database, fresh_database
from tests.support.jobs import KILLED
from tests.support.places import ServerPlace
from tests.support.resyncs import (
    EXTRAS,
    anything,
    configure,
    copy,
    damage,
    fill,
    made,
    open_state,
    require_equal,
    run,
)
from tests.support.writers import Statement, Writers


@pytest.fixture
def pipeline(database: Database, place: ServerPlace, tmp_path: Path) -> Pipeline:
    return made(database, place, tmp_path)


# --- within the daemon -----------------------------------------------------------------------------


def test_a_table_that_is_written_to_is_exact_after_a_resync(pipeline: Pipeline) -> None:
    with run(pipeline) as running:
        wait_streaming(running)
        damage(pipeline)
        with Writers(pipeline.database, anything, seed=1) as writers:
            writers.await_written(50)
            outcome = pipeline.command("resync", "public.docs", "--json").require()
        pipeline.wait_now()
        require_equal(pipeline)
    (request,) = outcome.report["requests"]
    assert request["outcome"] == "done"
    assert request["rows"] == request["written"] > 0
    assert request["extras"] == len(EXTRAS)
    assert pipeline.place.records(pipeline.name, "request") == {}


def test_no_point_goes_back_and_no_deleted_row_comes_back_meanwhile(pipeline: Pipeline) -> None:
    """Rows 1 to 40 are only ever counted up, 41 to 400 deleted one by one."""
    counted, client = list(range(1, 41)), pipeline.place.client

    def choose(numbers: random.Random, connection: int) -> Statement:
        if connection == 0:
            return "DELETE FROM docs WHERE id = (SELECT min(id) FROM docs WHERE id > 40)", ()
        return "UPDATE docs SET n = n + 1 WHERE id = %s", (numbers.choice(counted),)

    ended = threading.Event()
    problems: list[str] = []

    def watch() -> None:
        seen: dict[Any, int] = {}
        gone: set[Any] = set()
        while not ended.is_set():
            found = client.retrieve(f"{pipeline.name}_docs", list(range(1, 401)))
            versions = {r.id: r.payload["n"] for r in found if r.payload is not None}
            problems.extend(f"{i} went back" for i, n in versions.items() if n < seen.get(i, 0))
            problems.extend(f"{i} came back" for i in gone & versions.keys())
            gone |= seen.keys() - versions.keys()
            seen.update(versions)

    with run(pipeline) as running:
        wait_streaming(running)
        watcher = threading.Thread(target=watch, daemon=True)
        with Writers(pipeline.database, choose, seed=2) as writers:
            watcher.start()
            writers.await_written(50)
            for _ in range(3):
                pipeline.command("resync", "--all").require()
        ended.set()
        watcher.join(60)
        pipeline.wait_now()
        require_equal(pipeline)
    assert problems == []


def test_a_range_is_read_again_and_other_rows_are_not(pipeline: Pipeline) -> None:
    with run(pipeline) as running:
        wait_streaming(running)
        damage(pipeline)
        report = pipeline.command(
            "resync", "public.docs", "--from", "100", "--to", "199", "--json"
        ).require().report  # fmt: skip
        there = set(pipeline.place.points(f"{pipeline.name}_docs"))
        assert set(range(100, 200)) <= there
        assert there.isdisjoint(range(1, 100))
        assert report["requests"][0]["rows"] == 100
        pipeline.command("resync", "public.docs", "--to", "150").require()
        pipeline.command("resync", "public.docs", "--from", "150").require()
        require_equal(pipeline)


def test_a_truncate_in_the_middle_is_followed(pipeline: Pipeline) -> None:
    """The first page has been read before it, the others are read behind it."""
    with run(pipeline, "resync.before_write:delay@1,resync.after_write:delay@2") as running:
        wait_streaming(running)
        damage(pipeline)
        pipeline.command("resync", "public.docs", "--no-wait").require()
        running.wait_line('"request_began"')
        with pipeline.database.connect(autocommit=False) as connection:
            connection.execute("CREATE TABLE kept AS SELECT * FROM docs WHERE id % 3 = 0")
            connection.execute("TRUNCATE docs")
            connection.execute("INSERT INTO docs SELECT id, 'after', n, v FROM kept")
        running.wait_line('"request_ended"')
        pipeline.wait_now()
        require_equal(pipeline)


def test_an_open_transaction_that_is_older_is_waited_for_and_named(pipeline: Pipeline) -> None:
    with run(pipeline) as running:
        wait_streaming(running)
        damage(pipeline)
        target, store = open_state(pipeline)
        asked = requests.make("resync", "public.docs", waited_for=True)
        with pipeline.database.connect(autocommit=False) as connection:
            connection.execute("UPDATE docs SET n = 7 WHERE id < 50")
            requests.ask(store, asked)
            waiting = f"PID {connection.info.backend_pid}"

            def stop_when_told(request: Request) -> None:
                if request.progress.waiting == waiting:
                    raise InterruptedError

            with pytest.raises(InterruptedError):
                requests.await_outcomes(store, [asked], on_progress=stop_when_told)
            # Meanwhile the stream goes on.
            pipeline.database.execute("UPDATE docs SET body = 'new' WHERE id = 60")
            pipeline.wait_now()
        (ended,) = requests.await_outcomes(store, [asked])
        target.close()
        assert ended.progress.stage == "done"
        assert ended.progress.waiting == ""
        require_equal(pipeline)


def test_a_row_that_is_streamed_and_not_visible_yet_is_not_overwritten(
    own_postgres: EmbeddedPostgres, place: ServerPlace, tmp_path: Path
) -> None:
    """Commits wait for a standby that is not there: the stream has them, no snapshot shows them."""
    with fresh_database(own_postgres) as database:
        fill(database, rows=200)
        name = place.name("p").lower()
        config = configure(tmp_path, database, place, name, "public.docs")
        pipeline = Pipeline(database=database, place=place, name=name, rows=200, config=config)
        with run(pipeline) as running:
            wait_streaming(running)
            with no_standby(database):
                _resync_around_a_hanging_commit(pipeline)
            require_equal(pipeline)


def _resync_around_a_hanging_commit(pipeline: Pipeline) -> None:
    hanging = _Hanging(pipeline.database, "UPDATE docs SET n = 5 WHERE id = 1")
    _await_payload(pipeline, 1, "n", 5)
    target, store = open_state(pipeline)
    asked = requests.make("resync", "public.docs", waited_for=True)
    requests.ask(store, asked)

    def stop_when_told(request: Request) -> None:
        if request.progress.waiting:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        requests.await_outcomes(store, [asked], on_progress=stop_when_told)
    assert _payload(pipeline, 1)["n"] == 5
    hanging.let_go()
    (ended,) = requests.await_outcomes(store, [asked])
    target.close()
    assert ended.progress.stage == "done"


@contextmanager
def no_standby(database: Database) -> Iterator[None]:
    """Commits wait for a standby that never comes."""
    database.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    database.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        database.execute("ALTER SYSTEM RESET synchronous_standby_names")
        database.execute("SELECT pg_reload_conf()")


class _Hanging:
    """A statement whose commit waits for a standby."""

    def __init__(self, database: Database, statement: str) -> None:
        self._database = database
        self._connection = database.connect()
        # What it says when it is let go: that the commit may not be on the standby.
        self._connection.add_notice_handler(lambda notice: None)
        self.pid = self._connection.info.backend_pid
        self._thread = threading.Thread(
            target=self._connection.execute, args=(statement,), daemon=True
        )
        self._thread.start()

    def await_commit(self) -> None:
        """Return once it waits."""
        looking = threading.Event()
        while not self._database.execute(
            "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'", (self.pid,)
        ):
            looking.wait(0.02)

    def let_go(self) -> None:
        """End the wait; the commit stands."""
        self.await_commit()
        self._database.execute("SELECT pg_cancel_backend(%s)", (self.pid,))
        self._thread.join(30)
        self._connection.close()


def _payload(pipeline: Pipeline, identity: int) -> dict[str, Any]:
    (record,) = pipeline.place.client.retrieve(f"{pipeline.name}_docs", [identity])
    return record.payload or {}


def _await_payload(pipeline: Pipeline, identity: int, field: str, value: Any) -> None:
    looking = threading.Event()
    for _ in range(1500):
        if _payload(pipeline, identity)[field] == value:
            return
        looking.wait(0.02)
    raise TimeoutError(f"{field} of point {identity} never was {value}")


# --- killed in the middle --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failpoint",
    [
        "resync.before_write:kill@2",
        "resync.after_write:kill@2",
        "resync.after_page:kill@2",
        "resync.before_extras:kill@1",
        "resync.after_write:error@2",
        "resync.before_extras:error@1",
    ],
)
def test_a_daemon_that_dies_in_a_resync_finishes_it_after_the_restart(
    pipeline: Pipeline, failpoint: str
) -> None:
    copy(pipeline)
    damage(pipeline)
    pipeline.command("resync", "public.docs", "--no-wait").require()
    with Writers(pipeline.database, anything, seed=3):
        with run(pipeline, failpoint) as dying:
            if "kill" in failpoint:
                assert dying.finish().code == KILLED
            else:
                dying.wait_line('"request_ended"')
        with run(pipeline) as running:
            if "kill" in failpoint:
                running.wait_line('"request_ended"')
            wait_streaming(running)
    with run(pipeline) as running:
        wait_streaming(running)
        pipeline.wait_now()
        require_equal(pipeline)
    assert pipeline.place.records(pipeline.name, "request") == {}


# --- without a daemon ------------------------------------------------------------------------------


def test_without_a_daemon_the_command_follows_the_stream_itself(pipeline: Pipeline) -> None:
    copy(pipeline)
    damage(pipeline)
    pipeline.database.execute("UPDATE docs SET id = id + 50000 WHERE id % 7 = 0")
    pipeline.database.execute("DELETE FROM docs WHERE id % 11 = 0")
    pipeline.command("resync", "--all").require()
    require_equal(pipeline)
    assert pipeline.status()["dead_letters"] == 0
    with run(pipeline) as running:
        wait_streaming(running)
        pipeline.database.execute("INSERT INTO docs SELECT 77777, 'new', 0, v FROM docs LIMIT 1")
        pipeline.wait_now()
        require_equal(pipeline)


def test_what_cannot_be_done_fails_with_its_reason_and_the_stream_goes_on(
    pipeline: Pipeline,
) -> None:
    with run(pipeline) as running:
        wait_streaming(running)
        target, store = open_state(pipeline)
        asked = requests.make("resync", "public.docs", first=("one",), waited_for=True)
        requests.ask(store, asked)
        (ended,) = requests.await_outcomes(store, [asked])
        target.close()
        assert ended.progress.stage == "failed"
        assert "InvalidTextRepresentation" in ended.progress.reason
        pipeline.database.execute("UPDATE docs SET n = 3 WHERE id = 1")
        pipeline.wait_now()
        assert _payload(pipeline, 1)["n"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "one"], "--from: 'one' is no integer, which the key column id is"),
        (["--to", "99999999999"], "--to: '99999999999' is no integer"),
    ],
)
def test_a_key_of_another_type_is_refused_before_anything_is_asked(
    pipeline: Pipeline, arguments: list[str], message: str
) -> None:
    copy(pipeline)
    assert message in pipeline.command("resync", "public.docs", *arguments).require(2).err
    assert pipeline.place.records(pipeline.name, "request") == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "what to read again is not said"),
        (["public.docs", "--all"], "what to read again is not said"),
        (["--all", "--from", "1"], "--from and --to are keys of one table"),
        (["public.other"], "is not in the configuration"),
        (["public.docs"], "has not begun"),
        (["docs"], "has not begun"),
    ],
)
def test_wrong_usage_is_refused(pipeline: Pipeline, arguments: list[str], message: str) -> None:
    outcome = pipeline.command("resync", *arguments).require(2)
    assert message in outcome.err


# --- dead letters, and the copy before the stream --------------------------------------------------


def test_dead_letters_are_retried_by_the_daemon(pipeline: Pipeline) -> None:
    execute = pipeline.database.execute
    execute("ALTER TABLE docs ADD COLUMN price numeric")
    with run(pipeline) as running:
        wait_streaming(running)
        execute("UPDATE docs SET price = 1 WHERE id = 1")
        execute("UPDATE docs SET price = repeat('9', 400)::numeric WHERE id BETWEEN 10 AND 12")
        pipeline.wait_now()
        assert pipeline.status()["dead_letters"] == 3
        outcome = pipeline.command("dead-letters", "retry", "--all", "--json").require(1)
        assert outcome.report == {"version": 1, "written": 0, "gone": 0, "kept": 3}
        # What mends them comes by the stream as well: only a letter is left to be forgotten.
        execute("DELETE FROM docs WHERE id = 10")
        execute("UPDATE docs SET price = 2 WHERE id IN (11, 12)")
        pipeline.wait_now()
        assert pipeline.status()["dead_letters"] == 0
        require_equal(pipeline)


def test_a_copy_can_prepare_the_stream_that_follows(pipeline: Pipeline) -> None:
    with Writers(pipeline.database, anything, seed=6) as writers:
        writers.await_written(20)
        pipeline.command("backfill", "pgvector", "--prepare-sync").require()
        writers.await_written(20)
        with Running("sync", "postgres", "--config", pipeline.config) as running:
            wait_streaming(running)
    with Running("sync", "postgres", "--config", pipeline.config) as running:
        wait_streaming(running)
        pipeline.wait_now()
        require_equal(pipeline)
