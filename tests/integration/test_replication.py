"""The replication connection against real servers: reading, feedback, and everything that breaks it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bridge.errors import BridgeError, StopError, Unreachable, UsageError
from bridge.events import Commit, Insert, LogicalMessage
from bridge.positions import Lsn
from bridge.postgres.connection import conninfo
from bridge.postgres.embedded import EmbeddedPostgres
from bridge.postgres.walsender import start_command
from sync.framing import Frame, XLogData
from sync.pgoutput import Decoder
from sync.replication import ReplicationConnection
from tests.conftest import BOTH_VERSIONS, SETTINGS, Database
from tests.support.databases import fresh_database
from tests.support.proxy import TcpProxy
from tests.support.replication import (
    LIMIT_SECONDS,
    eventually,
    inserted,
    keepalive_behind,
    publish,
    streaming,
    until_commit,
)
from tests.support.tls import AUTHORITY, DIRECTORY

both_versions = pytest.mark.parametrize("postgres_version", BOTH_VERSIONS, indirect=True)


@asynccontextmanager
async def stream(
    database: Database, slot: str, **options: Any
) -> AsyncIterator[ReplicationConnection]:
    connection = await streaming(database, slot, **options)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
def impatient(own_postgres: EmbeddedPostgres) -> Iterator[Database]:
    """A database on a server of its own that gives up on a silent reader after two seconds."""
    own_postgres.settings["wal_sender_timeout"] = "2s"
    own_postgres.restart()
    with fresh_database(own_postgres) as database:
        yield database


def walsender(database: Database) -> tuple[int, int, float] | None:
    """PID, confirmed position as a number, and seconds between connecting and the last feedback."""
    rows = database.execute(
        "SELECT r.pid, s.confirmed_flush_lsn - '0/0'::pg_lsn,"
        " extract(epoch FROM reply_time - backend_start)::float8"
        " FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid"
        " WHERE s.database = %s",
        (database.name,),
    )
    return (rows[0][0], int(rows[0][1]), rows[0][2] or 0.0) if rows else None


def url_through(database: Database, proxy: TcpProxy) -> str:
    return database.url.replace(f":{database.server.port}/", f":{proxy.port}/")


def current_lsn(database: Database) -> Lsn:
    return Lsn.parse(database.execute("SELECT pg_current_wal_insert_lsn()::text")[0][0])


# --- reading and feedback --------------------------------------------------------------------------


@both_versions
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])
@pytest.mark.parametrize("proto_version", [1, 2, 4])
def test_changes_come_transaction_by_transaction(
    database: Database, binary: bool, proto_version: int
) -> None:
    slot = publish(database)
    database.execute("INSERT INTO docs VALUES (1), (2)")
    database.execute("SELECT pg_logical_emit_message(true, 'p', 'content')")

    async def read() -> None:
        connection = await ReplicationConnection.connect(database.url)
        async with connection:
            await connection.start(
                slot=slot,
                publication_names=("pub",),
                start_lsn=Lsn(0),
                proto_version=proto_version,
                binary=binary,
                messages=True,
            )
            decoder = Decoder()
            expected = [b"\0\0\0\1", b"\0\0\0\2"] if binary else [b"1", b"2"]
            assert inserted(await until_commit(connection, decoder)) == expected
            told = await until_commit(connection, decoder)
            assert [m.content for m in told if isinstance(m, LogicalMessage)] == [b"content"]

    asyncio.run(read())


@both_versions
def test_the_system_is_identified(database: Database) -> None:
    async def ask() -> None:
        async with await ReplicationConnection.connect(database.url) as connection:
            identity = await connection.identify_system()
            ((system_id,),) = database.execute(
                "SELECT system_identifier::text FROM pg_control_system()"
            )
            assert identity.system_id == system_id
            assert identity.timeline == 1
            assert identity.database == database.name
            assert Lsn(0) < identity.flush_lsn <= current_lsn(database)
            assert await connection.timeline_history(1) == ()
            assert (await connection.identify_system()).timeline == 1

    asyncio.run(ask())


def test_a_promoted_servers_history_is_read(own_postgres: EmbeddedPostgres) -> None:
    # Recovery with nothing to recover ends in a promotion, which begins a timeline.
    own_postgres.stop()
    own_postgres.settings["restore_command"] = "false"
    (own_postgres.data_directory / "recovery.signal").touch()
    own_postgres.start()

    async def ask() -> None:
        async with await ReplicationConnection.connect(own_postgres.url()) as connection:
            identity = await connection.identify_system()
            assert identity.timeline == 2
            (switch,) = await connection.timeline_history(2)
            assert switch.timeline == 1
            assert Lsn(0) < switch.switch_lsn <= identity.flush_lsn

    asyncio.run(ask())


@both_versions
def test_feedback_moves_the_slot_and_a_restart_goes_on_behind_it(database: Database) -> None:
    slot = publish(database)

    async def read() -> None:
        database.execute("INSERT INTO docs VALUES (1)")
        async with stream(database, slot) as connection:
            end = (await until_commit(connection, Decoder()))[-1]
            assert isinstance(end, Commit)
            lsn = end.end_lsn
            connection.send_feedback(written=lsn, flushed=lsn, applied=lsn)
            await eventually(
                lambda: (found := walsender(database)) is not None and found[1] == lsn.value,
                "the slot is confirmed",
            )
            with pytest.raises(ValueError, match="does not go back"):
                connection.send_feedback(written=lsn, flushed=Lsn(1), applied=lsn)
        database.execute("INSERT INTO docs VALUES (2)")
        async with stream(database, slot, start=lsn) as connection:
            assert inserted(await until_commit(connection, Decoder())) == [b"\0\0\0\2"]

    asyncio.run(read())


def test_a_closed_stream_frees_its_slot_at_once(database: Database) -> None:
    slot = publish(database)

    async def twice() -> None:
        for number in range(1, 4):
            database.execute("INSERT INTO docs VALUES (%s)", (number,))
            async with stream(database, slot) as connection:
                await until_commit(connection, Decoder())

    asyncio.run(twice())


def test_keepalives_pass_an_idle_table_in_a_busy_database(database: Database) -> None:
    slot = publish(database)
    database.execute("CREATE UNLOGGED TABLE elsewhere (id int)")

    async def read() -> None:
        async with stream(database, slot) as connection:
            database.execute("SELECT pg_logical_emit_message(false, 'x', 'y')")
            lsn = current_lsn(database)
            keepalive = await keepalive_behind(connection, lsn)
            end = keepalive.end_lsn
            connection.send_feedback(written=end, flushed=end, applied=end)
            await eventually(
                lambda: (found := walsender(database)) is not None and found[1] >= lsn.value,
                "the slot is confirmed",
            )

    asyncio.run(read())


def test_a_server_that_is_only_asked_now_and_then_answers(impatient: Database) -> None:
    """Nothing happens for longer than the reader's patience: asking is what keeps it."""
    slot = publish(impatient)

    async def idle() -> None:
        async with stream(impatient, slot, silence_seconds=1.5) as connection:
            assert connection.feedback_seconds == pytest.approx(2 / 3)
            async with asyncio.timeout(LIMIT_SECONDS):
                async for _ in connection:
                    if (found := walsender(impatient)) is not None and found[2] > 5:
                        return

    asyncio.run(idle())


def test_a_reader_that_stands_still_keeps_its_connection(impatient: Database) -> None:
    """Longer than wal_sender_timeout, with more waiting than the sockets hold; then all of it comes."""
    slot = publish(impatient, "CREATE TABLE docs (id int PRIMARY KEY, filler text)")
    impatient.execute("ALTER TABLE docs ALTER filler SET STORAGE external")
    impatient.execute(
        "INSERT INTO docs SELECT i, repeat('x', 10000) FROM generate_series(1, 4000) i"
    )

    async def stall() -> None:
        async with stream(impatient, slot) as connection:
            await connection.read_batch()
            before = walsender(impatient)
            assert before is not None
            await eventually(
                lambda: (found := walsender(impatient)) is None or found[2] > 6,
                "feedback goes on for six seconds",
            )
            after = walsender(impatient)
            assert after is not None and after[0] == before[0]
            assert connection.feedback_count >= 6
            seen = 0
            frames: list[Frame] = []
            while not any(isinstance(f, XLogData) and f.payload[:1] == b"C" for f in frames):
                frames = await connection.read_batch()
                seen += sum(isinstance(f, XLogData) and f.payload[:1] == b"I" for f in frames)
            assert 3900 < seen <= 4000

    asyncio.run(stall())


def test_a_stream_that_never_runs_dry_leaves_the_feedback_its_turn(impatient: Database) -> None:
    slot = publish(impatient)
    impatient.execute("INSERT INTO docs SELECT generate_series(1, 300000)")

    async def read() -> None:
        async with stream(impatient, slot) as connection:
            connection.feedback_seconds = 0.01
            rows = 0
            decoder = Decoder()
            async with asyncio.timeout(LIMIT_SECONDS):
                while True:
                    for frame in await connection.read_batch():
                        if isinstance(frame, XLogData):
                            message = decoder.decode(frame.payload, frame.start)
                            if isinstance(message, Commit):
                                assert rows == 300_000 + 2  # Begin and Relation
                                assert connection.feedback_count > 10
                                return
                            rows += 1

    asyncio.run(read())


def test_batches_are_bounded_by_bytes(database: Database) -> None:
    slot = publish(database, "CREATE TABLE docs (id int PRIMARY KEY, filler text)")
    database.execute("ALTER TABLE docs ALTER filler SET STORAGE external")
    database.execute("INSERT INTO docs SELECT i, repeat('x', 10000) FROM generate_series(1, 500) i")

    async def read() -> None:
        async with stream(database, slot) as connection:
            total = 0
            while total < 500 * 10_000:
                batch = await connection.read_batch(50_000)
                size = sum(len(f.payload) for f in batch if isinstance(f, XLogData))
                assert size < 50_000 + 10_100
                total += size

    asyncio.run(read())


def test_a_cancelled_read_loses_nothing(database: Database) -> None:
    slot = publish(database)

    async def read() -> None:
        async with stream(database, slot) as connection:
            await keepalive_behind(connection, Lsn(0))
            decoder = Decoder()
            found: list[bytes] = []
            for number in range(20):
                reading = asyncio.ensure_future(until_commit(connection, decoder))
                await asyncio.sleep(0)
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
                database.execute("INSERT INTO docs VALUES (%s)", (number,))
                found += inserted(await until_commit(connection, decoder))
            assert found == [struct.pack(">i", number) for number in range(20)]

    asyncio.run(read())


@asynccontextmanager
async def encrypting(database: Database) -> AsyncIterator[str]:
    """A url to the database through TLS, which the wheel's Postgres has not: a proxy ends it.

    External specification: protocol, "SSL Session Encryption": SSLRequest, then `S`, then TLS.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(DIRECTORY / "server.pem", DIRECTORY / "server.key")

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError), contextlib.closing(sink):
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(b"S")
        await writer.start_tls(context)
        server = await asyncio.open_connection("127.0.0.1", database.server.port)
        await asyncio.gather(pump(reader, server[1]), pump(server[0], writer))

    listener = await asyncio.start_server(serve, "127.0.0.1")
    port = listener.sockets[0].getsockname()[1]
    async with listener:
        url = database.url.replace(f":{database.server.port}/", f":{port}/")
        yield f"{url}?sslmode=verify-full&sslrootcert={AUTHORITY}"


def test_an_encrypted_stream_brings_messages_of_every_size_at_once(database: Database) -> None:
    """A TLS record may be read by halves, with which the socket is not readable any more."""
    slot = publish(database, "CREATE TABLE docs (id int PRIMARY KEY, filler text)")
    database.execute("ALTER TABLE docs ALTER filler SET STORAGE external")
    sizes = [1, 4_000, 8_100, 8_192, 12_000, 16_300, 16_384, 24_600, 40_000, 100_000] * 3

    async def read() -> None:
        async with encrypting(database) as url, stream(database, slot, url=url) as connection:
            decoder = Decoder()
            for number, size in enumerate(sizes):
                database.execute("INSERT INTO docs VALUES (%s, repeat('x', %s))", (number, size))
                (row,) = [
                    message.row
                    for message in await until_commit(connection, decoder)
                    if isinstance(message, Insert)
                ]
                assert row.values == (struct.pack(">i", number), b"x" * size)
            # Long before the next feedback would have drawn an answer that sets it going again.
            assert connection.feedback_count < 2 + len(sizes) / 10

    asyncio.run(read())


@pytest.mark.parametrize(
    "name", ['say "hi"', "it's", "back\\slash", "Ünïcode ☃", "a,b", "semi;colon", "%s", "x" * 63]
)
@both_versions
def test_publications_of_any_name_are_streamed(database: Database, name: str) -> None:
    slot = publish(database)
    with database.connect() as admin:
        quoted = '"' + name.replace('"', '""') + '"'
        admin.execute(f"CREATE PUBLICATION {quoted} FOR TABLE docs".encode())
        admin.execute("INSERT INTO docs VALUES (1)")

    async def read() -> None:
        async with await ReplicationConnection.connect(database.url) as connection:
            # Made again, so that the publication exists wherever it reads.
            database.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
            database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
            await connection.start(slot=slot, publication_names=(name, "pub"), start_lsn=Lsn(0))
            database.execute("INSERT INTO docs VALUES (2)")
            assert inserted(await until_commit(connection, Decoder())) == [b"\0\0\0\2"]

    asyncio.run(read())


def test_names_in_a_replication_command_are_quoted_twice() -> None:
    command = start_command(
        slot='s"',
        publication_names=("it's", 'a"b'),
        start_lsn=Lsn(0x16B374D848),
        proto_version=4,
        binary=False,
        messages=True,
    )
    assert command == (
        'START_REPLICATION SLOT "s""" LOGICAL 16/B374D848 (proto_version \'4\','
        " publication_names '\"it''s\",\"a\"\"b\"', binary 'false', messages 'true')"
    )
    with pytest.raises(UsageError):
        start_command(
            slot="a\0b",
            publication_names=("p",),
            start_lsn=Lsn(0),
            proto_version=1,
            binary=True,
            messages=False,
        )


# --- what breaks ------------------------------------------------------------------------------------


async def fails_to_start(database: Database, slot: str, **options: Any) -> BridgeError:
    with pytest.raises(BridgeError) as caught:
        async with stream(database, slot, **options):
            pass
    return caught.value


async def fails_to_read(connection: ReplicationConnection) -> BridgeError:
    with pytest.raises(BridgeError) as caught:
        async with asyncio.timeout(LIMIT_SECONDS):
            while True:
                await connection.read_batch()
    return caught.value


@both_versions
def test_a_missing_slot_is_lost(database: Database) -> None:
    publish(database)
    error = asyncio.run(fails_to_start(database, "nowhere"))
    assert isinstance(error, StopError) and error.code == "SLOT_LOST"
    assert "resync --all" in error.hint


@both_versions
def test_an_invalidated_slot_is_lost(own_postgres: EmbeddedPostgres) -> None:
    own_postgres.settings.update(max_slot_wal_keep_size="1MB", max_wal_size="32MB")
    own_postgres.restart()
    with fresh_database(own_postgres) as database:
        slot = publish(database)
        for _ in range(4):
            database.execute("SELECT pg_logical_emit_message(false, '', repeat('x', 1000000))")
            database.execute("SELECT pg_switch_wal()")
        database.execute("CHECKPOINT")
        error = asyncio.run(fails_to_start(database, slot))
    assert isinstance(error, StopError) and error.code == "SLOT_LOST"


@both_versions
def test_a_slot_in_use_names_the_pid_and_passes_by_itself(database: Database) -> None:
    slot = publish(database)

    async def two() -> None:
        async with stream(database, slot) as connection:
            await keepalive_behind(connection, Lsn(0))
            found = walsender(database)
            assert found is not None
            error = await fails_to_start(database, slot)
            assert isinstance(error, Unreachable) and error.code == "SLOT_IN_USE"
            assert f"PID {found[0]}" in error.message
            assert f"pg_terminate_backend({found[0]})" in error.hint

    asyncio.run(two())


@both_versions
def test_a_slot_of_another_plugin_or_database_is_refused(database: Database) -> None:
    slot = publish(database)
    other = Database(name="postgres", url=database.server.url(), server=database.server)
    error = asyncio.run(fails_to_start(other, slot))
    assert isinstance(error, UsageError)
    assert f"belongs to the database {database.name}" in error.message
    database.execute("SELECT pg_create_physical_replication_slot('physical')")
    try:
        error = asyncio.run(fails_to_start(database, "physical"))
    finally:
        database.execute("SELECT pg_drop_replication_slot('physical')")
    assert not isinstance(error, Unreachable)


@both_versions
def test_a_publication_that_is_gone_stops_the_stream(database: Database) -> None:
    slot = publish(database)
    database.execute("DROP PUBLICATION pub")
    database.execute("INSERT INTO docs VALUES (1)")

    async def read() -> None:
        async with stream(database, slot) as connection:
            error = await fails_to_read(connection)
        assert isinstance(error, StopError) and error.code == "PUBLICATION_CHANGED"
        assert "pub" in error.message

    asyncio.run(read())


@both_versions
def test_without_logical_wal_the_statement_is_named(own_postgres: EmbeddedPostgres) -> None:
    own_postgres.settings["wal_level"] = "replica"
    own_postgres.restart()
    database = Database(name="postgres", url=own_postgres.url(), server=own_postgres)
    database.execute("SELECT pg_create_physical_replication_slot('physical')")
    error = asyncio.run(fails_to_start(database, "physical"))
    assert isinstance(error, UsageError) and error.code == "WAL_LEVEL"
    assert "ALTER SYSTEM SET wal_level = logical" in error.hint


@both_versions
def test_a_role_without_replication_is_told_what_it_needs(database: Database) -> None:
    slot = publish(database)
    database.execute("CREATE ROLE rep_less LOGIN")
    try:
        url = f"postgresql://rep_less@127.0.0.1:{conninfo(database.url)['port']}/{database.name}"
        error = asyncio.run(fails_to_start(database, slot, url=url))
    finally:
        database.execute("DROP ROLE rep_less")
    assert isinstance(error, UsageError)
    assert error.hint == "ALTER ROLE rep_less REPLICATION;"


def test_no_free_walsender_is_an_outage(own_postgres: EmbeddedPostgres) -> None:
    own_postgres.settings["max_wal_senders"] = "1"
    own_postgres.restart()

    async def two() -> None:
        async with await ReplicationConnection.connect(own_postgres.url()):
            with pytest.raises(Unreachable, match="all walsenders") as caught:
                await ReplicationConnection.connect(own_postgres.url())
            assert "max_wal_senders" in caught.value.hint

    asyncio.run(two())


def test_a_terminated_walsender_is_an_outage_and_nothing_is_lost(database: Database) -> None:
    slot = publish(database)

    async def read() -> None:
        async with stream(database, slot) as connection:
            database.execute("INSERT INTO docs VALUES (1)")
            assert inserted(await until_commit(connection, Decoder())) == [b"\0\0\0\1"]
            found = walsender(database)
            assert found is not None
            database.execute("SELECT pg_terminate_backend(%s)", (found[0],))
            assert isinstance(await fails_to_read(connection), Unreachable)
            with pytest.raises(Unreachable):
                await connection.read_batch()
            with pytest.raises(Unreachable):
                connection.send_feedback(written=Lsn(1), flushed=Lsn(0), applied=Lsn(0))
        async with stream(database, slot) as connection:
            assert inserted(await until_commit(connection, Decoder())) == [b"\0\0\0\1"]

    asyncio.run(read())


@pytest.mark.parametrize("mode", ["immediate", "fast"])
def test_a_restarted_server_is_an_outage_and_nothing_is_lost(
    own_postgres: EmbeddedPostgres, mode: Any
) -> None:
    with fresh_database(own_postgres) as database:
        slot = publish(database)

        async def read() -> None:
            async with stream(database, slot) as connection:
                database.execute("INSERT INTO docs VALUES (1)")
                end = (await until_commit(connection, Decoder()))[-1]
                assert isinstance(end, Commit)
                stopping = asyncio.ensure_future(asyncio.to_thread(own_postgres.restart, mode))
                while True:
                    try:
                        for frame in await connection.read_batch():
                            # A fast shutdown waits until all has been confirmed.
                            lsn = frame.start_lsn if isinstance(frame, XLogData) else frame.end_lsn
                            connection.send_feedback(written=lsn, flushed=Lsn(0), applied=Lsn(0))
                    except Unreachable:
                        break
            await stopping
            async with stream(database, slot) as connection:
                database.execute("INSERT INTO docs VALUES (2)")
                decoder = Decoder()
                first = inserted(await until_commit(connection, decoder))
                assert first == [b"\0\0\0\1"]
                assert inserted(await until_commit(connection, decoder)) == [b"\0\0\0\2"]

        asyncio.run(read())


def test_a_black_hole_is_noticed(database: Database) -> None:
    slot = publish(database)

    async def read(proxy: TcpProxy) -> None:
        url = url_through(database, proxy)
        async with stream(database, slot, url=url, silence_seconds=1.0) as connection:
            database.execute("INSERT INTO docs VALUES (1)")
            await until_commit(connection, Decoder())
            proxy.black_hole()
            error = await fails_to_read(connection)
            assert isinstance(error, Unreachable) and "silent" in error.message
        with pytest.raises(Unreachable):
            await ReplicationConnection.connect(url, connect_timeout_seconds=2)
        proxy.heal()
        await eventually(lambda: walsender(database) is None, "the server notices the reset")
        async with stream(database, slot, url=url) as connection:
            assert inserted(await until_commit(connection, Decoder())) == [b"\0\0\0\1"]

    with TcpProxy(database.server.port) as proxy:
        asyncio.run(read(proxy))


def test_a_connection_that_is_reset_is_an_outage(database: Database) -> None:
    slot = publish(database)

    async def read(proxy: TcpProxy) -> None:
        url = url_through(database, proxy)
        async with stream(database, slot, url=url) as connection:
            await keepalive_behind(connection, Lsn(0))
            reading = asyncio.ensure_future(fails_to_read(connection))
            await asyncio.sleep(0)
            proxy.cut()
            assert isinstance(await reading, Unreachable)
        proxy.refuse()
        with pytest.raises(Unreachable):
            await ReplicationConnection.connect(url)

    with TcpProxy(database.server.port) as proxy:
        asyncio.run(read(proxy))


def test_closing_in_the_middle_of_a_huge_transaction_is_quick(database: Database) -> None:
    slot = publish(database, "CREATE TABLE docs (id int PRIMARY KEY, filler text)")
    database.execute("ALTER TABLE docs ALTER filler SET STORAGE external")
    database.execute(
        "INSERT INTO docs SELECT i, repeat('x', 10000) FROM generate_series(1, 5000) i"
    )

    async def read() -> None:
        connection = await streaming(database, slot)
        await connection.read_batch()
        async with asyncio.timeout(10):
            await connection.close()
            await connection.close()
        await eventually(lambda: walsender(database) is None, "the server frees the slot")
        with pytest.raises(RuntimeError, match="closed"):
            await connection.read_batch()

    asyncio.run(read())


def test_a_connection_attempt_that_is_cancelled_leaves_nothing_behind(database: Database) -> None:
    async def attempt(proxy: TcpProxy) -> None:
        url = url_through(database, proxy)
        proxy.black_hole()
        connecting = asyncio.ensure_future(
            ReplicationConnection.connect(url, connect_timeout_seconds=2)
        )
        await eventually(lambda: proxy.connections > 0, "it connects")
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting

    with TcpProxy(database.server.port) as proxy:
        asyncio.run(attempt(proxy))


def test_settings_of_the_server_are_respected_without_a_timeout() -> None:
    settings = {**SETTINGS, "wal_sender_timeout": "0"}
    with EmbeddedPostgres.temporary("18", settings) as server:

        async def ask() -> tuple[float, float]:
            async with await ReplicationConnection.connect(server.url()) as connection:
                return connection.feedback_seconds, connection.silence_seconds

        assert asyncio.run(ask()) == (5.0, 60.0)
