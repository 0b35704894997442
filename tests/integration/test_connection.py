"""Opening connections, their session, their encryption, and the translation of errors."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from bridge.errors import BridgeError, StopError, Unreachable, UsageError
from bridge.postgres.connection import Connection, connect, conninfo, display, translated
from tests.conftest import BOTH_VERSIONS, Database

CANARY = "canary-Pa55"
SSL_REQUEST = 80877103


def port_of(url: str) -> int:
    return int(conninfo(url)["port"])


@contextmanager
def fake_server(answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Answers each connection's first message (SSLRequest: `N`, then the next) and hangs up."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    peer.settimeout(20)
                    received.append(first := peer.recv(8192))
                    if len(first) == 8 and struct.unpack("!ii", first)[1] == SSL_REQUEST:
                        peer.sendall(b"N")
                        received.append(peer.recv(8192))
                    if received[-1]:
                        peer.sendall(answer)

        thread = threading.Thread(target=serve, name="fake-postgres")
        thread.start()
        try:
            yield listener.getsockname()[1], received
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(20)


def fatal(state: str, message: str) -> bytes:
    """An ErrorResponse as a server sends it (protocol, "Error and Notice Message Fields")."""
    fields = f"SFATAL\0VFATAL\0C{state}\0M{message}\0\0".encode()
    return b"E" + struct.pack("!i", len(fields) + 4) + fields


# --- the session -------------------------------------------------------------------------------


@pytest.mark.parametrize("postgres_version", BOTH_VERSIONS, indirect=True)
def test_the_session_gives_the_text_forms_that_ids_are_made_of(database: Database) -> None:
    settings = {
        "TimeZone": "Asia/Tokyo",
        "DateStyle": "SQL, DMY",
        "IntervalStyle": "sql_standard",
        "extra_float_digits": "-3",
        "bytea_output": "escape",
    }
    for name, value in settings.items():
        database.execute(
            sql.SQL("ALTER DATABASE {} SET {} = {}").format(
                sql.Identifier(database.name), sql.Identifier(name), sql.Literal(value)
            )
        )
    forms = {
        "timestamptz '2024-01-02 03:04:05.6+00'": "2024-01-02 03:04:05.6+00",
        "date '2024-01-02'": "2024-01-02",
        "interval '1 mon 2 days'": "P1M2D",
        "0.1::float4": "0.1",
        "'\\x01'::bytea": "\\x01",
        "current_setting('row_security')": "off",
        "current_setting('application_name')": "trial",
        "current_setting('client_encoding')": "UTF8",
        "current_setting('search_path')": '"$user", public',
    }
    with connect(database.url, application_name="trial") as connection:
        for expression, expected in forms.items():
            row = connection.execute(f"SELECT format('%s', {expression})".encode()).fetchone()
            assert row == (expected,)


@pytest.mark.parametrize("postgres_version", BOTH_VERSIONS, indirect=True)
def test_readers_cannot_write(database: Database) -> None:
    with (
        connect(database.url) as connection,
        pytest.raises(UsageError, match="read-only"),
        translated(connection=connection),
    ):
        connection.execute("CREATE TABLE t ()")
    with connect(database.url, read_only=False) as connection:
        connection.execute("CREATE TABLE t ()")


def test_search_path_in_the_url_is_honoured(database: Database) -> None:
    database.execute('CREATE SCHEMA "My Schema"')
    with connect(database.url + "?search_path=%22My%20Schema%22,public") as connection:
        row = connection.execute("SELECT current_schema()").fetchone()
    assert row == ("My Schema",)


def test_keyword_form_service_file_and_environment(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = port_of(database.url)
    with connect(f"host=127.0.0.1 port={port} user=postgres dbname={database.name}") as connection:
        assert connection.info.dbname == database.name
    service = f"[s]\nhost=127.0.0.1\nport={port}\nuser=postgres\ndbname={database.name}\n"
    (tmp_path / "services").write_text(service)
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    with connect("service=s") as connection:
        assert connection.info.dbname == database.name


# --- encryption --------------------------------------------------------------------------------

# getaddrinfo reads 127.1 as 127.0.0.1; to the bridge it is a name like any other, so remote.
REMOTE = "127.1"


@pytest.mark.parametrize("sslmode", ["", "?sslmode=prefer", "?sslmode=allow"])
def test_no_byte_of_the_login_goes_unencrypted_to_another_host(sslmode: str) -> None:
    with fake_server(b"") as (port, received):
        with pytest.raises(UsageError, match="does not offer encryption") as caught:
            connect(f"postgresql://alice:{CANARY}@{REMOTE}:{port}/db{sslmode}")
        assert "--allow-plaintext" in caught.value.hint
    assert received and all(data in (b"", struct.pack("!ii", 8, SSL_REQUEST)) for data in received)


def test_sslmode_disable_to_another_host_is_refused_without_connecting() -> None:
    with fake_server(b"") as (port, received):
        with pytest.raises(UsageError, match="unencrypted"):
            connect(f"postgresql://alice:{CANARY}@{REMOTE}:{port}/db?sslmode=disable")
        assert received == []


def test_the_environments_sslmode_is_raised_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "disable")
    monkeypatch.setenv("PGHOST", REMOTE)
    with fake_server(b"") as (port, received):
        with pytest.raises(UsageError, match="does not offer encryption"):
            connect(f"port={port} user=alice dbname=db")
        assert received[0] == struct.pack("!ii", 8, SSL_REQUEST)


def test_plaintext_to_another_host_can_be_allowed(database: Database) -> None:
    url = database.url.replace("127.0.0.1", REMOTE)
    with connect(url, allow_plaintext=True) as connection:
        assert not connection.pgconn.ssl_in_use
    with pytest.raises(UsageError, match="does not offer encryption"):
        connect(url)


# --- what the url may be -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://alice:{CANARY}@@host/db",
        f"postgresql://alice:{CANARY}@x@host/db",
        f"postgresql://alice:{CANARY}%zz@host/db",
        f"postgresql://alice:{CANARY}@host/db?nonsense=1",
        f"host=h password={CANARY} nonsense",
        f"postgresql://alice:{CANARY}/x@host/db",
        f"host=h port={CANARY}",
        f"mysql://alice:{CANARY}@host/db",
    ],
)
def test_a_url_that_cannot_be_read_is_not_repeated(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        connect(url)
    told = f"{caught.value.message} {caught.value.hint} {caught.value.__cause__!r}"
    assert CANARY not in told


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_schemes(scheme: str) -> None:
    url = f"{scheme}://alice:{CANARY}@db.example:6543/shop?sslmode=require"
    assert conninfo(url)["host"] == "db.example"
    assert display(url) == "alice@db.example:6543/shop"


def test_search_path_keeps_other_options() -> None:
    found = conninfo("postgresql://h/d?options=-c%20geqo%3Doff&search_path=a%20b,c&sslmode=require")
    assert found["options"] == "-c geqo=off -c search_path=a\\ b,c"
    assert found["sslmode"] == "require"


# --- errors of opening -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "message", "expected"),
    [
        ("28P01", 'password authentication failed for user "alice"', UsageError),
        ("28000", 'no pg_hba.conf entry for host "1.2.3.4", user "alice"', UsageError),
        ("28000", 'role "bob" is not permitted to log in', UsageError),
        ("57P03", "the database system is starting up", Unreachable),
        ("57P03", "the database system is in recovery mode", Unreachable),
        ("57P03", "the database system is shutting down", Unreachable),
        ("53300", "sorry, too many clients already", Unreachable),
        ("57P01", "terminating connection due to administrator command", Unreachable),
        ("57P03", "das Datenbanksystem startet", Unreachable),
    ],
)
def test_a_refusal_says_who_and_where_but_not_the_password(
    state: str, message: str, expected: type[BridgeError]
) -> None:
    with fake_server(fatal(state, message)) as (port, _), pytest.raises(expected) as caught:
        connect(f"postgresql://alice:{CANARY}@127.0.0.1:{port}/shop")
    assert type(caught.value) is expected
    assert f"alice@127.0.0.1:{port}/shop" in caught.value.message
    assert CANARY not in f"{caught.value.message} {caught.value.hint} {caught.value.__cause__}"


@pytest.mark.parametrize(
    ("given", "told"), [(f":{CANARY}", "in the url, or"), ("", "PGPASSWORD, ~/.pgpass or url_file")]
)
def test_a_wrong_password_is_to_be_corrected_where_it_came_from(given: str, told: str) -> None:
    refusal = fatal("28P01", 'password authentication failed for user "alice"')
    with fake_server(refusal) as (port, _), pytest.raises(UsageError, match="wrong") as caught:
        connect(f"postgresql://alice{given}@127.0.0.1:{port}/shop")
    assert "correct the password" in caught.value.hint and told in caught.value.hint


def test_unknown_database_and_role(database: Database) -> None:
    port = port_of(database.url)
    with pytest.raises(UsageError, match="no such database"):
        connect(f"postgresql://postgres@127.0.0.1:{port}/nowhere")
    with pytest.raises(UsageError, match="no such role"):
        connect(f"postgresql://nobody_known@127.0.0.1:{port}/{database.name}")


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable, match="Connection refused") as caught:
            connect(f"postgresql://alice:{CANARY}@127.0.0.1:{taken.getsockname()[1]}/db")
    assert CANARY not in caught.value.message


def test_a_server_that_hangs_up_is_unreachable() -> None:
    with fake_server(b"") as (port, _), pytest.raises(Unreachable):
        connect(f"postgresql://alice:{CANARY}@127.0.0.1:{port}/db")


# --- errors of statements ----------------------------------------------------------------------


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with connect(database.url, read_only=False) as opened:
        yield opened


@pytest.mark.parametrize(
    ("statement", "expected", "told"),
    [
        ("SELECT * FROM nowhere", UsageError, "42P01"),
        ("SELECT nothing", UsageError, "42703"),
        ("SELECT * FROM nowhere.t", UsageError, "42P01"),
        ("SELECT 'secret-value'::int", UsageError, "22P02"),
        ("SELECT 1 / 0", UsageError, "22012"),
        ("SELECT '(1,2)'::point < '(1,2)'::point", UsageError, "42883"),
        ("SET lock_timeout = 1; LOCK t", Unreachable, "55P03"),
        (
            "SET statement_timeout = 1; SELECT count(*) FROM generate_series(1, 10000000)",
            Unreachable,
            "57014",
        ),
        ("SELECT pg_terminate_backend(pg_backend_pid())", Unreachable, "57P01"),
        ("DO $$ BEGIN RAISE 'secret-value' USING ERRCODE = '53100'; END $$", Unreachable, "53100"),
        ("DO $$ BEGIN RAISE 'busy' USING ERRCODE = '40001'; END $$", Unreachable, "40001"),
        ("DO $$ BEGIN RAISE 'secret-value'; END $$", StopError, "P0001"),
        ("DO $$ BEGIN RAISE 'secret-value' USING ERRCODE = 'XX001'; END $$", StopError, "XX001"),
        ("SELECT * FROM m", UsageError, "55000"),
    ],
)
def test_a_statements_error_becomes_ours(
    connection: Connection,
    database: Database,
    statement: str,
    expected: type[BridgeError],
    told: str,
) -> None:
    connection.execute("CREATE TABLE t (); CREATE MATERIALIZED VIEW m AS SELECT 1 WITH NO DATA")
    with database.connect(autocommit=False) as other:
        other.execute("LOCK t")
        with (
            pytest.raises(expected) as caught,
            translated(connection=connection, table="public.t", key="7"),
        ):
            connection.execute(statement.encode())
    assert type(caught.value) is expected
    assert told in caught.value.message
    assert caught.value.hint or expected is Unreachable
    assert (caught.value.table, caught.value.key) == ("public.t", "7")
    if told != "53100":
        assert "secret-value" not in caught.value.message


def test_a_connection_lost_in_between_is_unreachable(
    connection: Connection, database: Database
) -> None:
    database.execute("SELECT pg_terminate_backend(%s, 10000)", (connection.info.backend_pid,))
    with pytest.raises(Unreachable), translated(connection=connection):
        connection.execute("SELECT 1")
    with pytest.raises(Unreachable), translated(connection=connection):
        connection.execute("SELECT 1")


def test_a_missing_privilege_names_the_grant(connection: Connection) -> None:
    connection.execute('CREATE ROLE "con reader" LOGIN; CREATE TABLE "T" ()')
    try:
        url = f"postgresql://con%20reader@127.0.0.1:{connection.info.port}/{connection.info.dbname}"
        with (
            connect(url) as reader,
            pytest.raises(UsageError) as caught,
            translated(connection=reader, table='public."T"'),
        ):
            reader.execute('SELECT * FROM "T"')
        assert 'GRANT SELECT ON public."T" TO "con reader";' in caught.value.hint
        assert 'GRANT USAGE ON SCHEMA public TO "con reader";' in caught.value.hint
    finally:
        connection.execute('DROP ROLE "con reader"')


def test_row_security_raises_with_its_own_remedy(connection: Connection) -> None:
    connection.execute("""
        CREATE ROLE con_reader; CREATE TABLE t (); GRANT SELECT ON t TO con_reader;
        ALTER TABLE t ENABLE ROW LEVEL SECURITY; SET ROLE con_reader
    """)
    try:
        with pytest.raises(UsageError) as caught, translated(connection=connection):
            connection.execute("SELECT count(*) FROM t")
        assert caught.value.code == "ROW_SECURITY"
        assert "BYPASSRLS" in caught.value.hint
    finally:
        connection.execute("RESET ROLE; DROP OWNED BY con_reader; DROP ROLE con_reader")


def test_an_unknown_error_keeps_its_cause(connection: Connection) -> None:
    with pytest.raises(StopError) as caught, translated():
        connection.execute("DO $$ BEGIN RAISE 'x'; END $$")
    assert isinstance(caught.value.__cause__, psycopg.Error)
