"""Postgres goes away under a stream and comes back: the daemon waits, and streams again within 30 s
(faults.md, "Postgres backend killed, server restarted, network black hole"). SIGTERM ends it whatever is
away.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from typing import Final

import pytest

from bridge.postgres.embedded import EmbeddedPostgres
from tests.support.command import Running, config_file
from tests.support.daemons import wait_streaming
from tests.support.databases import Database, fresh_database
from tests.support.followed import Followed
from tests.support.places import ServerPlace
from tests.support.proxy import TcpProxy
from tests.support.qdrant_server import delay

AGAIN_SECONDS: Final = 30.0
DRAIN_SECONDS: Final = 30.0
both_versions = pytest.mark.parametrize(
    "postgres_version", [pytest.param("16", marks=pytest.mark.long), "18"], indirect=True
)


def followed(database: Database, place: ServerPlace, directory: Path) -> Followed:
    docs = Followed(database, place, directory)
    docs.sql("INSERT INTO docs SELECT i, 'r' || i, i, vec(i) FROM generate_series(1, 9) i")
    return docs


@pytest.fixture
def docs(database: Database, place: ServerPlace, tmp_path: Path) -> Followed:
    return followed(database, place, tmp_path)


class Watch:
    """How long something takes from now on."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._began


# --- Postgres ---------------------------------------------------------------------------------------


@both_versions
def test_a_terminated_walsender_and_the_daemons_other_backends(docs: Followed) -> None:
    with docs.streaming():
        for number in range(3):
            docs.sql(
                f"UPDATE docs SET price = price + {number}, title = 'x' || id",
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()",
                f"UPDATE docs SET price = -{number} WHERE id = {number + 1}",
                f"DELETE FROM docs WHERE id = {number + 6}",
            )
            watch = Watch()
            docs.wait()
            assert watch.seconds < AGAIN_SECONDS
        docs.require_equal()


@both_versions
def test_a_server_that_crashes_and_recovers(
    own_postgres: EmbeddedPostgres, place: ServerPlace, tmp_path: Path
) -> None:
    with fresh_database(own_postgres) as database:
        docs = followed(database, place, tmp_path)
        with docs.streaming():
            for number in range(3):
                docs.sql(f"UPDATE docs SET price = price + {number}", "DELETE FROM docs"
                    f" WHERE id = {number + 1}")  # fmt: skip
                with docs.database.connect(autocommit=False) as connection:
                    connection.execute("INSERT INTO docs VALUES (77, 'never', 1, vec(1))")
                    own_postgres.stop("immediate")
                    connection.close()
                own_postgres.start()
                docs.sql(f"INSERT INTO docs VALUES ({number + 100}, 'back', 1, vec(2))")
                watch = Watch()
                docs.wait()
                assert watch.seconds < AGAIN_SECONDS
            docs.require_equal()


def test_a_network_that_swallows_everything(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    docs = followed(database, place, tmp_path)
    with TcpProxy(database.server.port) as proxy:
        settings = json.loads(Path(docs.pipeline.config).read_text())
        settings["postgres"]["url"] = (
            f"postgresql://postgres@127.0.0.1:{proxy.port}/{database.name}"
        )
        config_file(tmp_path, settings)
        with docs.pipeline.run() as running:
            wait_streaming(running)
            proxy.black_hole()
            docs.sql("UPDATE docs SET price = 100", "DELETE FROM docs WHERE id = 1")
            # Within twenty seconds of silence it gives the connection up.
            running.wait_line('"waiting"', AGAIN_SECONDS)
            proxy.heal()
            watch = Watch()
            docs.wait()
            assert watch.seconds < AGAIN_SECONDS
            docs.require_equal()


def test_a_connection_that_is_refused_for_a_while(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    docs = followed(database, place, tmp_path)
    with TcpProxy(database.server.port) as proxy:
        settings = json.loads(Path(docs.pipeline.config).read_text())
        settings["postgres"]["url"] = (
            f"postgresql://postgres@127.0.0.1:{proxy.port}/{database.name}"
        )
        config_file(tmp_path, settings)
        with docs.pipeline.run() as running:
            wait_streaming(running)
            proxy.refuse()
            proxy.cut()
            docs.sql("UPDATE docs SET price = 100")
            running.wait_line('"waiting"', AGAIN_SECONDS)
            proxy.heal()
            docs.wait()
            docs.require_equal()


# --- SIGTERM ----------------------------------------------------------------------------------------


def end(running: Running) -> str:
    """SIGTERM, and the end with exit code 0 in time; what it said."""
    watch = Watch()
    running.signal(signal.SIGTERM)
    outcome = running.finish(DRAIN_SECONDS + 5).require()
    assert watch.seconds < DRAIN_SECONDS
    return outcome.err


def test_sigterm_in_the_middle_of_a_transaction(docs: Followed) -> None:
    assert docs.place.server is not None
    with docs.streaming() as running:
        rule = docs.place.server.faults.add(
            method="Upsert", collection=docs.pipeline.name, action=delay(0.1), nth=2, times=None
        )
        docs.sql("INSERT INTO docs SELECT i, 't', i, vec(i) FROM generate_series(10, 12000) i")
        docs.place.server.faults.wait_fired(rule)
        assert "drain_timeout" not in end(running)
    docs.place.server.faults.clear()
    assert 9 < docs.place.count(docs.pipeline.name) < 12000, "not in the middle"
    with docs.streaming():
        docs.wait()
        docs.require_equal()


def test_sigterm_while_a_transaction_of_the_source_is_open(docs: Followed) -> None:
    with docs.streaming() as running, docs.database.connect(autocommit=False) as connection:
        connection.execute("UPDATE docs SET price = 100")
        assert "drain_timeout" not in end(running)
        connection.commit()
    with docs.streaming():
        docs.wait()
        docs.require_equal()


@pytest.mark.parametrize("how", ["refused", pytest.param("swallowed", marks=pytest.mark.long)])
def test_sigterm_while_qdrant_is_away(
    database: Database, place: ServerPlace, tmp_path: Path, how: str
) -> None:
    docs = followed(database, place, tmp_path)
    assert place.server is not None
    with TcpProxy(place.server.port) as proxy:
        settings = json.loads(Path(docs.pipeline.config).read_text())
        settings["qdrant"]["url"] = f"http://127.0.0.1:{proxy.port}"
        config_file(tmp_path, settings)
        with docs.pipeline.run() as running:
            wait_streaming(running)
            if how == "refused":
                proxy.refuse()
                proxy.cut()
            else:
                proxy.black_hole()
            docs.sql("UPDATE docs SET price = 100", "DELETE FROM docs WHERE id = 1")
            if how == "refused":
                running.wait_line('"waiting"', 60)
            end(running)
        proxy.heal()
        with docs.streaming():
            docs.wait()
            docs.require_equal()


def test_sigterm_while_postgres_is_away(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    docs = followed(database, place, tmp_path)
    with TcpProxy(database.server.port) as proxy:
        settings = json.loads(Path(docs.pipeline.config).read_text())
        settings["postgres"]["url"] = (
            f"postgresql://postgres@127.0.0.1:{proxy.port}/{database.name}"
        )
        config_file(tmp_path, settings)
        with docs.pipeline.run() as running:
            wait_streaming(running)
            proxy.black_hole()
            end(running)


# --- log that nobody of ours writes -----------------------------------------------------------------


def test_an_idle_table_in_a_busy_database_holds_no_log_back(docs: Followed) -> None:
    """Sixty megabytes are written elsewhere; the slot follows, though nothing of ours changes."""
    docs.sql("CREATE TABLE other (body text)", "ALTER TABLE other ALTER body SET STORAGE EXTERNAL")
    pause = threading.Event()
    with docs.streaming():
        for _ in range(10):
            docs.sql("INSERT INTO other SELECT repeat('x', 6000000)")
            for _ in range(250):
                if lag_bytes(docs) < 4_000_000:
                    break
                pause.wait(0.02)
            assert lag_bytes(docs) < 16_000_000
        docs.wait()
        assert lag_bytes(docs) < 1_000_000


def lag_bytes(docs: Followed) -> int:
    """How far the slot is behind the server."""
    ((lag,),) = docs.database.execute(
        "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint"
        " FROM pg_replication_slots WHERE slot_name = %s",
        (docs.pipeline.slot,),
    )
    return int(lag)
