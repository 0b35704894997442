"""The source is not what it was: another cluster, a restored one, a promoted standby; a slot, a
publication or a state that does not fit any more (faults.md). Whatever cannot be followed stops with its
code, acknowledges nothing and makes nothing again; the slot stays as it is.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from qdrant_client import models

from bridge.positions import Lsn
from bridge.postgres.embedded import EmbeddedPostgres
from tests.support.command import Running, config_file
from tests.support.daemons import ask, http_address, wait_streaming
from tests.support.databases import BOTH_VERSIONS, SETTINGS, Database, fresh_database
from tests.support.followed import Followed
from tests.support.impatient import IMPATIENT
from tests.support.jobs import KILLED
from tests.support.places import STATE, ServerPlace
from tests.support.proxy import TcpProxy
from tests.support.standby import (
    await_replayed,
    make_failover_slot,
    promote,
    standby_of,
    synchronize_slots,
)

both_versions = pytest.mark.parametrize("postgres_version", BOTH_VERSIONS, indirect=True)
ROWS: Final = "INSERT INTO docs SELECT i, 'r' || i, i, vec(i) FROM generate_series(1, 9) i"


@pytest.fixture
def docs(database: Database, place: ServerPlace, tmp_path: Path) -> Followed:
    followed = Followed(database, place, tmp_path)
    followed.sql(ROWS)
    return followed


def confirmed(docs: Followed) -> Lsn:
    """What Postgres has been told."""
    ((lsn,),) = docs.database.execute(
        "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s",
        (docs.pipeline.slot,),
    )
    return Lsn.parse(lsn)


def require_stopped(docs: Followed, code: str, *told: str) -> None:
    """A start stops with the code, says so, acknowledges nothing, leaves the points alone."""
    before, points = confirmed(docs), docs.points()
    with docs.pipeline.run() as running:
        outcome = docs.stopped(running, code)
    for text in told:
        assert text in outcome.err
    assert "resync --all" in outcome.err
    assert confirmed(docs) == before
    assert docs.points().keys() == points.keys()


def resync(docs: Followed) -> None:
    """The remedy that every stop names."""
    docs.pipeline.command("resync", "--all", "--yes").require()
    docs.require_equal()


# --- the state is older than the slot ---------------------------------------------------------------


def test_a_state_older_than_the_slot_is_a_gap(docs: Followed) -> None:
    docs.prepare()
    client = docs.place.client
    old, _ = client.scroll(STATE, limit=1000, with_payload=True)
    with docs.streaming() as running:
        docs.sql("UPDATE docs SET price = 100", "DELETE FROM docs WHERE id = 1")
        docs.wait()
        running.kill()
    newer = [record.id for record in client.scroll(STATE, limit=1000)[0]]
    client.delete(STATE, models.PointIdsList(points=newer), wait=True)
    client.upsert(
        STATE,
        [models.PointStruct(id=r.id, vector={}, payload=r.payload) for r in old],
        wait=True,
    )
    require_stopped(docs, "GAP", "state restored from a backup")
    resync(docs)


def test_a_stop_is_seen_by_whoever_asks_whether_it_is_ready(docs: Followed, tmp_path: Path) -> None:
    docs.prepare()
    settings = json.loads(Path(docs.pipeline.config).read_text())
    settings["http"] = {"listen": "127.0.0.1:0", "hold_on_stop": True}
    config_file(tmp_path, settings)
    docs.sql(
        "UPDATE docs SET price = 100",
        f"SELECT pg_replication_slot_advance('{docs.pipeline.slot}', pg_current_wal_lsn())",
    )
    with docs.pipeline.run() as running:
        running.wait_line('"holding"')
        status, body = ask(http_address(running), "/readyz")
        assert (status, json.loads(body)["stop"]["code"]) == (503, "GAP")
        running.process.terminate()
        running.finish(30)


# --- the slot ---------------------------------------------------------------------------------------


@both_versions
def test_a_slot_dropped_under_a_running_daemon_is_lost(docs: Followed) -> None:
    with docs.streaming() as running:
        running.signal(signal.SIGSTOP)  # else it would be there again before the slot is dropped
        docs.sql(
            "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots"
            f" WHERE slot_name = '{docs.pipeline.slot}'",
            f"SELECT pg_drop_replication_slot('{docs.pipeline.slot}')",
            "UPDATE docs SET price = 100",
        )
        running.signal(signal.SIGCONT)
        docs.stopped(running, "SLOT_LOST")
    # It is not made again, and the next start stops as well.
    with docs.pipeline.run() as running:
        docs.stopped(running, "SLOT_LOST")
    assert docs.database.execute("SELECT count(*) FROM pg_replication_slots"
        f" WHERE slot_name = '{docs.pipeline.slot}'") == [(0,)]  # fmt: skip
    assert {p.payload["price"] for p in docs.points().values()} == set(range(1, 10))
    resync(docs)


@both_versions
@pytest.mark.parametrize("away", ["the daemon", "Qdrant"])
def test_a_slot_that_outgrew_the_servers_limit_is_lost(
    postgres_version: Any, place: ServerPlace, tmp_path: Path, away: str
) -> None:
    settings = {
        **SETTINGS, "max_slot_wal_keep_size": "2MB", "min_wal_size": "32MB", "max_wal_size": "32MB",
    }  # fmt: skip
    with (
        EmbeddedPostgres.temporary(postgres_version, settings) as server,
        fresh_database(server) as database,
    ):
        docs = Followed(database, place, tmp_path)
        docs.sql(ROWS)
        if away == "the daemon":
            docs.prepare()
            invalidate(docs)
            with docs.pipeline.run() as running:
                docs.stopped(running, "SLOT_LOST")
        else:
            assert place.server is not None
            with docs.streaming() as running:
                place.server.stop()
                docs.sql("UPDATE docs SET price = 100")
                invalidate(docs)
                place.server.start()
                docs.stopped(running, "SLOT_LOST")
        resync(docs)


def invalidate(docs: Followed) -> None:
    """More log than the server keeps for a slot."""
    docs.sql(
        "DELETE FROM docs WHERE id = 1",
        "SELECT pg_switch_wal()", "CREATE TABLE filler AS SELECT 1 AS n",
        "SELECT pg_switch_wal()", "INSERT INTO filler VALUES (2)",
        "SELECT pg_switch_wal()", "CHECKPOINT",
    )  # fmt: skip
    ((status,),) = docs.database.execute(
        "SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s", (docs.pipeline.slot,)
    )
    assert status in ("lost", "unreserved")


# --- the publication --------------------------------------------------------------------------------

CHANGES: Final = {
    "dropped": ["DROP PUBLICATION {p}"],
    "dropped and made again": ["DROP PUBLICATION {p}", "CREATE PUBLICATION {p} FOR TABLE docs"],
    "the table taken out": ["ALTER PUBLICATION {p} DROP TABLE docs"],
    "the table taken out and put back": [
        "ALTER PUBLICATION {p} DROP TABLE docs",
        "ALTER PUBLICATION {p} ADD TABLE docs",
    ],
    "a column list": ["ALTER PUBLICATION {p} SET TABLE docs (id, v)"],
    "a row filter": ["ALTER PUBLICATION {p} SET TABLE docs WHERE (id > 5)"],
    "fewer operations": ["ALTER PUBLICATION {p} SET (publish = 'insert, update')"],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_publication_changed_while_the_daemon_was_away_stops_it(
    docs: Followed, change: str
) -> None:
    docs.prepare()
    docs.sql(*(statement.format(p=docs.pipeline.slot) for statement in CHANGES[change]))
    docs.sql("UPDATE docs SET price = 100")
    require_stopped(docs, "PUBLICATION_CHANGED")
    resync(docs)


@both_versions
def test_a_publication_changed_under_a_running_daemon_stops_it_at_the_next_look(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    docs = Followed(database, place, tmp_path)
    docs.sql(ROWS)
    for change in ("dropped and made again", "the table taken out and put back", "a row filter"):
        arguments = ("run", "--config", docs.pipeline.config)
        with Running(*arguments, prefix=IMPATIENT) as running:
            wait_streaming(running)
            docs.sql(*(statement.format(p=docs.pipeline.slot) for statement in CHANGES[change]))
            docs.stopped(running, "PUBLICATION_CHANGED")
        resync(docs)


# --- the collection ---------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["away", "idle", "writing"])
def test_a_collection_deleted_underneath_stops_and_is_not_made_again(
    docs: Followed, when: str
) -> None:
    name, client = docs.pipeline.name, docs.place.client
    if when == "away":
        docs.prepare()
        client.delete_collection(name)
    prefix = IMPATIENT if when == "idle" else ()
    with Running("run", "--config", docs.pipeline.config, prefix=prefix) as running:
        if when != "away":
            wait_streaming(running)
            client.delete_collection(name)
            if when == "writing":
                docs.sql("UPDATE docs SET price = 5", "INSERT INTO docs VALUES (50)")
        outcome = docs.stopped(running, "TARGET_CHANGED")
    assert "resync --all" in outcome.err
    assert not docs.place.exists(name)
    resync(docs)


@pytest.mark.parametrize("when", ["away", "idle", "writing"])
def test_a_collection_that_is_another_one_now_stops(docs: Followed, when: str) -> None:
    name, client = docs.pipeline.name, docs.place.client

    def change() -> None:
        client.delete_collection(name)
        vectors = {"v": models.VectorParams(size=3, distance=models.Distance.EUCLID)}
        client.create_collection(name, vectors_config=vectors)

    if when == "away":
        docs.prepare()
        change()
    prefix = IMPATIENT if when == "idle" else ()
    with Running("run", "--config", docs.pipeline.config, prefix=prefix) as running:
        if when != "away":
            wait_streaming(running)
            change()
            if when == "writing":
                docs.sql("UPDATE docs SET price = 5, v = vec(id)")
        docs.stopped(running, "TARGET_CHANGED")
    assert docs.points() == {}
    assert docs.place.records(docs.pipeline.name, "dead_letter") == {}


# --- the cluster ------------------------------------------------------------------------------------


def test_another_cluster_under_the_same_address_stops(
    docs: Followed, own_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    docs.prepare()
    name = docs.database.name
    admin = Database(name="postgres", url=own_postgres.url(), server=own_postgres)
    admin.execute(f"CREATE DATABASE {name}")
    other = replace(docs.database, url=own_postgres.url(name), server=own_postgres)
    for statement in (
        "CREATE EXTENSION vector",
        "CREATE TABLE docs (id int PRIMARY KEY, title text, price int, v vector(768))",
        f"CREATE PUBLICATION {docs.pipeline.slot} FOR TABLE docs",
        f"SELECT pg_create_logical_replication_slot('{docs.pipeline.slot}', 'pgoutput')",
    ):
        other.execute(statement)
    settings = json.loads(Path(docs.pipeline.config).read_text())
    settings["postgres"]["url"] = other.url
    config_file(tmp_path, settings)
    points = docs.points()
    with docs.pipeline.run() as running:
        assert "another cluster" in docs.stopped(running, "SOURCE_CHANGED").err
    assert docs.points().keys() == points.keys()


def test_a_server_restored_to_an_earlier_time_stops(
    own_postgres: EmbeddedPostgres, place: ServerPlace, tmp_path: Path
) -> None:
    with fresh_database(own_postgres) as database:
        docs = Followed(database, place, tmp_path)
        docs.sql(ROWS)
        docs.prepare()
        own_postgres.stop()
        backup = own_postgres.directory / "backup"
        shutil.copytree(own_postgres.data_directory, backup)
        own_postgres.start()
        with docs.streaming() as running:
            docs.sql("INSERT INTO docs SELECT i, 'later', i, vec(i) FROM generate_series(10, 99) i")
            docs.wait()
            running.kill()
        own_postgres.stop()
        restore(own_postgres, backup)
        own_postgres.start()
        assert docs.database.execute("SELECT count(*) FROM docs") == [(9,)]
        require_stopped(docs, "SOURCE_CHANGED", "restored to an earlier time")
        resync(docs)


def restore(server: EmbeddedPostgres, backup: Path) -> None:
    """The files of the backup in the place of the server's, owned as those were."""
    owner = server.data_directory.stat()
    shutil.rmtree(server.data_directory)
    backup.rename(server.data_directory)
    for path in (server.data_directory, *server.data_directory.rglob("*")):
        shutil.chown(path, owner.st_uid, owner.st_gid)


# --- timelines --------------------------------------------------------------------------------------


class Pair:
    """A primary that is followed through `source`, and its standby, fed through `feed`."""

    def __init__(
        self, docs: Followed, source: TcpProxy, feed: TcpProxy, standby: EmbeddedPostgres
    ) -> None:
        self.docs = docs
        self.source = source
        self.feed = feed
        self.primary = docs.database.server
        self.standby = standby

    def fail_over(self) -> None:
        """The primary is gone, and the standby in its place."""
        self.primary.stop("immediate")
        promote(self.standby)
        self.source.target_port = self.standby.port
        self.source.cut()
        database = self.docs.database
        moved = replace(database, url=self.standby.url(database.name), server=self.standby)
        self.docs.database = moved
        self.docs.pipeline = replace(self.docs.pipeline, database=moved)

    def stop_feeding(self) -> None:
        """What the primary writes from now on does not reach the standby."""
        self.feed.refuse()
        self.feed.cut()


@contextmanager
def pair(place: ServerPlace, directory: Path, *, failover: bool = True) -> Iterator[Pair]:
    """Nine rows copied, the slot made a failover slot and kept by the standby."""
    with (
        EmbeddedPostgres.temporary("18", SETTINGS) as primary,
        TcpProxy(primary.port) as source,
        TcpProxy(primary.port) as feed,
    ):
        admin = Database(name="postgres", url=primary.url(), server=primary)
        admin.execute("CREATE DATABASE app")
        database = Database(name="app", url=primary.url("app"), server=primary)
        database.execute("CREATE EXTENSION vector")
        docs = Followed(database, place, directory)
        settings = json.loads(Path(docs.pipeline.config).read_text())
        settings["postgres"]["url"] = f"postgresql://postgres@127.0.0.1:{source.port}/app"
        config_file(directory, settings)
        docs.sql(ROWS)
        docs.prepare()
        docs.sql("SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots"
            " WHERE active_pid IS NOT NULL")  # fmt: skip
        if failover:
            make_failover_slot(primary, database, docs.pipeline.slot)
        with standby_of(primary, port=feed.port) as standby:
            await_replayed(primary, standby)
            if failover:
                with docs.streaming() as running:
                    synchronize_slots(primary, standby, docs.pipeline.slot)
                    running.process.terminate()
                    running.finish(30).require()
            yield Pair(docs, source, feed, standby)


def test_a_promoted_standby_that_kept_the_slot_is_followed(
    place: ServerPlace, tmp_path: Path
) -> None:
    with pair(place, tmp_path) as both:
        docs = both.docs
        with docs.pipeline.run() as running:
            wait_streaming(running)
            docs.sql("UPDATE docs SET price = 100", "DELETE FROM docs WHERE id = 1")
            docs.wait()
            await_replayed(both.primary, both.standby)
            synchronize_slots(both.primary, both.standby, docs.pipeline.slot)
            both.fail_over()
            docs.sql("UPDATE docs SET price = 200 WHERE id < 5", "DELETE FROM docs WHERE id = 9")
            docs.wait()
            docs.require_equal()
            running.process.terminate()
            running.finish(30).require()
        with docs.streaming():
            docs.sql("UPDATE docs SET price = 300 WHERE id < 4")
            docs.wait()
            docs.require_equal()


def test_a_promoted_standby_without_what_was_written_stops(
    place: ServerPlace, tmp_path: Path
) -> None:
    with pair(place, tmp_path) as both:
        docs = both.docs
        with docs.pipeline.run() as running:
            wait_streaming(running)
            both.stop_feeding()
            docs.sql("INSERT INTO docs VALUES (50, 'not on the standby', 1, vec(1))")
            docs.wait()
            both.fail_over()
            docs.stopped(running, "SOURCE_CHANGED")
        assert docs.database.execute("SELECT 1 FROM docs WHERE id = 50") == []
        resync(docs)


def test_a_promoted_standby_without_what_was_written_and_never_recorded_stops(
    place: ServerPlace, tmp_path: Path
) -> None:
    """The daemon died between the write and the checkpoint, which is before the switch."""
    with pair(place, tmp_path) as both:
        docs = both.docs
        arguments = ("run", "--config", docs.pipeline.config)
        with Running(*arguments, failpoints="sync.after_write:kill@1") as running:
            wait_streaming(running)
            both.stop_feeding()
            docs.sql("INSERT INTO docs VALUES (50, 'not on the standby', 1, vec(1))")
            assert running.finish().code == KILLED
        both.fail_over()
        assert 50 in docs.points()
        require_stopped(docs, "SOURCE_CHANGED")
        resync(docs)


def test_a_promoted_standby_without_the_slot_stops(place: ServerPlace, tmp_path: Path) -> None:
    with pair(place, tmp_path, failover=False) as both:
        docs = both.docs
        both.fail_over()
        with docs.pipeline.run() as running:
            docs.stopped(running, "SOURCE_CHANGED")
        resync(docs)
