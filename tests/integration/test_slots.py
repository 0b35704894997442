"""Slot and publication: made, looked at, compared, waited for, dropped; on both versions."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from bridge.errors import BridgeError, StopError, Unreachable, UsageError
from bridge.positions import Lsn
from bridge.postgres.catalog import read_table
from bridge.postgres.connection import Connection, connect
from bridge.postgres.embedded import EmbeddedPostgres
from bridge.postgres.publications import (
    Publication,
    create_publication,
    inspect_publication,
    require_fitting,
    require_unchanged,
)
from bridge.postgres.slots import (
    Blocker,
    SlotFacts,
    current_snapshot,
    drop,
    inspect_slot,
    prepare,
    require_not_ahead,
    require_readable,
    wait_for_transactions,
)
from bridge.postgres.timelines import TimelineSwitch, lies_on_history, parse_timeline_history
from bridge.schema import Table
from tests.conftest import BOTH_VERSIONS, Database
from tests.support.databases import fresh_database

both_versions = pytest.mark.parametrize("postgres_version", BOTH_VERSIONS, indirect=True)
PUBLICATION = 'pub "x"; %s \\ ü'


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    database.execute("CREATE TABLE docs (id int PRIMARY KEY, title text, n int)")
    database.execute('CREATE TABLE "We""ird" (id int PRIMARY KEY)')
    with connect(database.url, read_only=False) as opened:
        yield opened


def tables_of(connection: Connection, *names: str) -> list[Table]:
    return [read_table(connection, "public", name) for name in names or ("docs", 'We"ird')]


def slot_of(connection: Connection) -> str:
    return f"slot_{connection.info.dbname}"


def prepared(connection: Connection, *names: str, **options: Any) -> SlotFacts:
    """Prepared by the pipeline `shop` under this test's names."""
    return prepare(
        connection,
        **{
            "slot": slot_of(connection),
            "publication": PUBLICATION,
            "tables": tables_of(connection, *names),
            "pipeline": "shop",
            **options,
        },
    )


@contextmanager
def open_transaction(database: Database, statement: str) -> Iterator[psycopg.Connection[Any]]:
    """A transaction with an id that stays open."""
    with database.connect(autocommit=False) as other:
        other.execute(statement.encode())
        yield other


# --- prepare ---------------------------------------------------------------------------------------


@both_versions
def test_prepare_makes_both_and_tells_all_that_is_compared_later(
    connection: Connection, database: Database
) -> None:
    before = Lsn.parse(database.execute("SELECT pg_current_wal_lsn()::text")[0][0])
    facts = prepared(connection)
    status = inspect_slot(connection, facts.slot)
    assert status is not None
    assert (status.plugin, status.database) == ("pgoutput", database.name)
    assert status.confirmed_flush_lsn == facts.start_lsn >= before
    assert (status.active, status.lost, status.failover) == (False, False, False)
    assert status.retained_bytes is not None and status.retained_bytes >= 0
    ((system_id,),) = database.execute("SELECT system_identifier::text FROM pg_control_system()")
    assert (facts.system_id, facts.timeline, facts.created) == (system_id, 1, True)
    oids = database.execute("SELECT 'docs'::regclass::oid, '\"We\"\"ird\"'::regclass::oid")[0]
    assert facts.tables == {"public.docs": oids[0], 'public."We""ird"': oids[1]}
    publication = facts.publication
    assert publication.operations == ("insert", "update", "delete", "truncate")
    assert publication.via_root and not publication.all_tables
    assert publication.pipeline == "shop"
    members = database.execute("SELECT prrelid, oid FROM pg_publication_rel")
    assert {(m.table_oid, m.member_oid) for m in publication.members} == set(members)
    assert facts.snapshot.count(":") == 2


@both_versions
def test_facts_survive_being_stored(connection: Connection) -> None:
    facts = prepared(connection)
    assert SlotFacts.from_record(json.loads(json.dumps(facts.to_record()))) == facts


@both_versions
def test_a_start_that_died_is_gone_on_with(connection: Connection, database: Database) -> None:
    first = prepared(connection)
    with pytest.raises(UsageError) as caught:
        prepared(connection)
    assert caught.value.code == "SLOT_EXISTS"
    assert f"pg_drop_replication_slot('{first.slot}')" in caught.value.hint
    again = prepared(connection, adopt=True)
    assert again.start_lsn == first.start_lsn
    assert (again.created, again.publication) == (False, first.publication)
    drop(connection, slot=first.slot, publication="", pipeline="shop")
    third = prepared(connection, adopt=True)
    assert third.created and third.publication == first.publication


def test_a_slot_without_its_publication_is_not_adopted(connection: Connection) -> None:
    facts = prepared(connection)
    connection.execute(b'DROP PUBLICATION "pub ""x""; %s \\ \xc3\xbc"')
    with pytest.raises(UsageError) as caught:
        prepared(connection, adopt=True)
    assert caught.value.code == "SLOT_EXISTS" and facts.slot in caught.value.message


@pytest.mark.parametrize("name", ["", "Upper", "a-b", "ü", "x" * 64, "a'b"])
def test_a_name_that_no_slot_can_have_is_refused(connection: Connection, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a slot's name"):
        prepared(connection, slot=name)
    assert inspect_publication(connection, PUBLICATION) is None


@both_versions
def test_a_role_without_replication_is_refused_before_anything_is_made(
    connection: Connection, database: Database
) -> None:
    connection.execute("CREATE ROLE slot_less LOGIN")
    try:
        url = database.url.replace("postgres@", "slot_less@")
        with connect(url, read_only=False) as other, pytest.raises(UsageError) as caught:
            prepared(other)
        assert caught.value.hint == "ALTER ROLE slot_less REPLICATION;"
        assert inspect_publication(connection, PUBLICATION) is None
    finally:
        connection.execute("DROP ROLE slot_less")


@both_versions
def test_a_role_that_owns_no_table_is_told_the_statement_for_its_owner(
    connection: Connection, database: Database
) -> None:
    connection.execute("CREATE ROLE slot_user LOGIN REPLICATION")
    try:
        with connect(database.url.replace("postgres@", "slot_user@"), read_only=False) as other:
            with pytest.raises(UsageError) as caught:
                prepared(other, publication="pub")
            statement = caught.value.hint.partition(": ")[2]
            assert caught.value.code == "PRIVILEGE"
            connection.execute(statement.encode())
            facts = prepared(other, publication="pub")
            assert facts.created and facts.publication.pipeline is None
            dropped = drop(other, slot=facts.slot, publication="pub", pipeline="shop")
            assert dropped == (f"slot {facts.slot}",)
    finally:
        connection.execute("DROP ROLE slot_user")


@both_versions
def test_full_slots_name_the_setting(own_postgres: EmbeddedPostgres) -> None:
    own_postgres.settings["max_replication_slots"] = "1"
    own_postgres.restart()
    with fresh_database(own_postgres) as database:
        database.execute("SELECT pg_create_physical_replication_slot('taken')")
        database.execute("CREATE TABLE docs (id int PRIMARY KEY)")
        with (
            connect(database.url, read_only=False) as connection,
            pytest.raises(UsageError, match="all replication slots") as caught,
        ):
            prepared(connection, "docs")
    assert "max_replication_slots" in caught.value.hint


@both_versions
def test_without_logical_wal_the_statement_is_named(own_postgres: EmbeddedPostgres) -> None:
    own_postgres.settings["wal_level"] = "replica"
    own_postgres.restart()
    with (
        connect(own_postgres.url(), read_only=False) as connection,
        pytest.raises(UsageError) as caught,
    ):
        prepare(connection, slot="s", publication="p", tables=[], pipeline="shop")
    assert caught.value.code == "WAL_LEVEL"
    assert "ALTER SYSTEM SET wal_level = logical" in caught.value.hint


@pytest.mark.parametrize("postgres_version", ["18"], indirect=True)
def test_a_failover_slot_is_made_where_asked_for(connection: Connection) -> None:
    facts = prepared(connection, failover=True)
    status = inspect_slot(connection, facts.slot)
    assert status is not None and status.failover


@both_versions
def test_making_a_slot_names_who_it_waits_for(connection: Connection, database: Database) -> None:
    heard: list[Sequence[Blocker]] = []
    with open_transaction(database, "INSERT INTO docs VALUES (1)") as other:
        facts = prepared(connection, on_wait=heard.append, sleep=lambda _: other.commit())
        assert [blocker.pid for blocker in heard[0]] == [other.info.backend_pid]
    assert facts.created


# --- waiting for transactions ------------------------------------------------------------------------


@both_versions
def test_only_transactions_that_were_open_are_waited_for(
    connection: Connection, database: Database
) -> None:
    ends: list[Callable[[], None]] = []
    heard: list[list[int | None]] = []
    waits: list[float] = []

    def on_wait(blockers: Sequence[Blocker]) -> None:
        heard.append([blocker.pid for blocker in blockers])

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        ends.pop()()

    with (
        open_transaction(database, "INSERT INTO docs VALUES (1)") as first,
        open_transaction(database, "INSERT INTO docs VALUES (2)") as second,
    ):
        snapshot = current_snapshot(connection)
        with open_transaction(database, "INSERT INTO docs VALUES (3)"):
            ends += [second.rollback, first.commit, lambda: None]
            wait_for_transactions(connection, snapshot, on_wait=on_wait, sleep=sleep)
        pids = [first.info.backend_pid, second.info.backend_pid]
    assert heard == [pids, pids, [pids[1]]]
    assert waits == [0.05, 0.1, 0.2]


@both_versions
def test_readers_and_idle_sessions_are_not_waited_for(
    connection: Connection, database: Database
) -> None:
    def on_wait(blockers: Sequence[Blocker]) -> None:
        raise AssertionError(f"waits for {blockers}")

    with open_transaction(database, "SELECT * FROM docs"):
        wait_for_transactions(connection, on_wait=on_wait)


@both_versions
def test_a_prepared_transaction_is_named(connection: Connection, database: Database) -> None:
    heard: list[str] = []

    def end(_: float) -> None:
        database.execute("COMMIT PREPARED 'the gid'")

    with database.connect(autocommit=False) as other:
        other.execute("INSERT INTO docs VALUES (1)")
        other.execute("PREPARE TRANSACTION 'the gid'")
    wait_for_transactions(connection, on_wait=lambda b: heard.extend(map(str, b)), sleep=end)
    assert heard == ["prepared transaction 'the gid'"]


def test_pids_are_named_to_a_role_without_privileges(
    connection: Connection, database: Database
) -> None:
    connection.execute("CREATE ROLE slot_watcher LOGIN")
    heard: list[Blocker] = []
    try:
        with (
            connect(database.url.replace("postgres@", "slot_watcher@")) as watcher,
            open_transaction(database, "INSERT INTO docs VALUES (1)") as other,
        ):
            wait_for_transactions(watcher, on_wait=heard.extend, sleep=lambda _: other.commit())
            assert [str(blocker) for blocker in heard] == [f"PID {other.info.backend_pid}"]
    finally:
        connection.execute("DROP ROLE slot_watcher")


@both_versions
def test_a_commit_before_the_slot_that_no_scan_sees_is_waited_for(
    own_postgres: EmbeddedPostgres,
) -> None:
    """Its record lies before the slot, so that the stream leaves it out, while it waits for a standby.

    The server waits for what runs at the first and the second look (T0, T1), not for what began
    after the second one (T2).
    """
    with fresh_database(own_postgres) as database, ExitStack() as stack:
        database.execute("CREATE TABLE docs (id int PRIMARY KEY)")
        database.execute("CREATE PUBLICATION pub FOR TABLE docs")
        connection = stack.enter_context(connect(database.url, read_only=False))
        sessions = [stack.enter_context(database.connect(autocommit=False)) for _ in range(3)]
        maker, committer = sessions.pop(), stack.enter_context(database.connect())
        threads = ThreadPoolExecutor(2)
        stack.callback(threads.shutdown)
        stack.callback(_without_standby, connection)
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        connection.execute("SELECT pg_reload_conf()")
        sessions[0].execute("INSERT INTO docs VALUES (100)")
        making = threads.submit(
            maker.execute, "SELECT pg_create_logical_replication_slot('early', 'pgoutput')"
        )
        _until_waiting(connection, maker, "transactionid")
        sessions[1].execute("INSERT INTO docs VALUES (101)")
        behind = sessions[1].info.backend_pid
        sessions[0].rollback()
        _until_waiting(connection, maker, "transactionid", behind)
        committing = threads.submit(committer.execute, "INSERT INTO docs VALUES (1)")
        _until_waiting(connection, committer, "SyncRep")
        sessions[1].rollback()
        making.result(30)
        maker.rollback()
        heard: list[int | None] = []

        def on_wait(blockers: Sequence[Blocker]) -> None:
            heard.extend(blocker.pid for blocker in blockers)
            assert connection.execute("SELECT count(*) FROM docs").fetchone() == (0,)

        def release(_: float) -> None:
            connection.execute("SELECT pg_cancel_backend(%s)", (committer.info.backend_pid,))
            committing.result(30)

        wait_for_transactions(connection, on_wait=on_wait, sleep=release)
        assert heard == [committer.info.backend_pid]
        assert connection.execute("SELECT count(*) FROM docs").fetchone() == (1,)
        streamed = connection.execute(
            "SELECT count(*) FROM pg_logical_slot_peek_binary_changes('early', NULL, NULL,"
            " 'proto_version', '1', 'publication_names', 'pub')"
        ).fetchone()
        assert streamed == (0,)


def _until_waiting(
    connection: Connection,
    session: psycopg.Connection[Any],
    event: str,
    blocker: int | None = None,
) -> None:
    """Return when the session's backend waits for that event and, if given, for that backend."""
    query = (
        "SELECT FROM pg_stat_activity WHERE pid = %(pid)s AND wait_event = %(event)s"
        " AND (%(blocker)s::int IS NULL OR %(blocker)s = ANY (pg_blocking_pids(pid)))"
    )
    end = time.monotonic() + 30
    parameters = {"pid": session.info.backend_pid, "event": event, "blocker": blocker}
    while connection.execute(query, parameters).fetchone() is None:
        assert time.monotonic() < end, f"the backend does not wait for {event}"


def _without_standby(connection: Connection) -> None:
    connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
    connection.execute("SELECT pg_reload_conf()")


# --- the slot, again and again -----------------------------------------------------------------------


@both_versions
def test_a_slot_that_is_gone_is_lost(connection: Connection) -> None:
    facts = prepared(connection)
    require_readable(connection, facts.slot, inspect_slot(connection, facts.slot))
    connection.execute("SELECT pg_drop_replication_slot(%s)", (facts.slot,))
    found = inspect_slot(connection, facts.slot)
    assert found is None
    with pytest.raises(StopError) as caught:
        require_readable(connection, facts.slot, found)
    assert caught.value.code == "SLOT_LOST"


@both_versions
def test_an_invalidated_slot_is_lost(own_postgres: EmbeddedPostgres) -> None:
    own_postgres.settings.update(max_slot_wal_keep_size="1MB", max_wal_size="32MB")
    own_postgres.restart()
    with fresh_database(own_postgres) as database:
        database.execute("CREATE TABLE docs (id int PRIMARY KEY)")
        with connect(database.url, read_only=False) as connection:
            facts = prepared(connection, "docs")
            for _ in range(4):
                database.execute("SELECT pg_logical_emit_message(false, '', repeat('x', 1000000))")
                database.execute("SELECT pg_switch_wal()")
            database.execute("CHECKPOINT")
            status = inspect_slot(connection, facts.slot)
            assert status is not None and status.lost
            with pytest.raises(StopError, match="invalidated") as caught:
                require_readable(connection, facts.slot, status)
            assert caught.value.code == "SLOT_LOST"
            assert drop(connection, slot=facts.slot, publication="", pipeline="shop")


@both_versions
def test_another_plugin_or_database_is_refused(connection: Connection, database: Database) -> None:
    with fresh_database(database.server) as other:
        name = f"slot_{other.name}"
        other.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
        found = inspect_slot(connection, name)
        with pytest.raises(UsageError, match=f"belongs to the database {other.name}"):
            require_readable(connection, name, found)
        with pytest.raises(UsageError):
            drop(connection, slot=name, publication="", pipeline="shop")
        assert inspect_slot(connection, name) is not None
    connection.execute("SELECT pg_create_physical_replication_slot('bodily')")
    try:
        with pytest.raises(UsageError, match="not pgoutput"):
            require_readable(connection, "bodily", inspect_slot(connection, "bodily"))
        with pytest.raises(UsageError, match="not pgoutput"):
            prepared(connection, slot="bodily", adopt=True)
    finally:
        connection.execute("SELECT pg_drop_replication_slot('bodily')")


@both_versions
def test_a_slot_that_is_read_from_is_in_use(connection: Connection, database: Database) -> None:
    facts = prepared(connection)
    reader = psycopg.connect(database.url, replication="database")
    try:
        reader.pgconn.exec_(
            f"START_REPLICATION SLOT {facts.slot} LOGICAL 0/0"
            " (proto_version '1', publication_names 'p')".encode()
        )
        status = inspect_slot(connection, facts.slot)
        assert status is not None and status.active_pid == reader.info.backend_pid
        require_readable(connection, facts.slot, status, own_pid=reader.info.backend_pid)
        attempts: list[Callable[[], object]] = [
            lambda: require_readable(connection, facts.slot, status),
            lambda: prepared(connection, adopt=True),
            lambda: drop(connection, slot=facts.slot, publication="", pipeline="shop"),
        ]
        for attempt in attempts:
            with pytest.raises(Unreachable, match=f"PID {reader.info.backend_pid}") as caught:
                attempt()
            assert caught.value.code == "SLOT_IN_USE"
    finally:
        reader.close()


def test_a_checkpoint_behind_the_slot_is_a_gap(connection: Connection) -> None:
    facts = prepared(connection)
    status = inspect_slot(connection, facts.slot)
    assert status is not None
    require_not_ahead(status, facts.start_lsn)
    require_not_ahead(replace(status, confirmed_flush_lsn=None), Lsn(1))
    with pytest.raises(StopError) as caught:
        require_not_ahead(status, Lsn(facts.start_lsn.value - 1))
    assert caught.value.code == "GAP"
    assert "resync --all" in caught.value.hint


@both_versions
def test_slot_and_publication_are_read_on_a_replication_connection(
    connection: Connection, database: Database
) -> None:
    facts = prepared(connection)
    with connect(database.url + "?replication=database") as walsender:
        assert inspect_publication(walsender, PUBLICATION) == facts.publication
        assert inspect_slot(walsender, facts.slot) is not None
        assert inspect_publication(walsender, "nowhere") is None


# --- the publication ---------------------------------------------------------------------------------

MEND = '"pub ""x""; %s \\ ü"'
CHANGES = {
    "dropped": ([f"DROP PUBLICATION {MEND}"], "does not exist any more"),
    "made again": (
        [
            f"DROP PUBLICATION {MEND}",
            f'CREATE PUBLICATION {MEND} FOR TABLE docs, "We""ird"'
            " WITH (publish_via_partition_root = true)",
        ],
        "dropped and made again",
    ),
    "operations": (
        [f"ALTER PUBLICATION {MEND} SET (publish = 'insert, update')"],
        "publishes insert, update",
    ),
    "root": (
        [f"ALTER PUBLICATION {MEND} SET (publish_via_partition_root = false)"],
        "publish_via_partition_root",
    ),
    "taken out": ([f"ALTER PUBLICATION {MEND} DROP TABLE docs"], "docs was taken out of it"),
    "put back": (
        [f"ALTER PUBLICATION {MEND} DROP TABLE docs", f"ALTER PUBLICATION {MEND} ADD TABLE docs"],
        "docs was taken out of it and put back",
    ),
    "columns": (
        [f'ALTER PUBLICATION {MEND} SET TABLE docs (id, n), "We""ird"'],
        "docs was taken out of it and put back|column list of public.docs",
    ),
    "filter": (
        [f'ALTER PUBLICATION {MEND} SET TABLE docs WHERE (id > 3), "We""ird"'],
        "docs was taken out of it and put back|row filter of public.docs",
    ),
}


@both_versions
@pytest.mark.parametrize(("statements", "told"), CHANGES.values(), ids=CHANGES)
def test_a_changed_publication_stops(
    connection: Connection, statements: list[str], told: str
) -> None:
    facts = prepared(connection)
    for statement in statements:
        connection.execute(statement.encode())
    found = inspect_publication(connection, PUBLICATION)
    with pytest.raises(StopError, match=told) as caught:
        require_unchanged(facts.publication, found, facts.tables.values())
    assert caught.value.code == "PUBLICATION_CHANGED"
    assert "resync --all" in caught.value.hint


@both_versions
def test_what_concerns_other_tables_may_change(connection: Connection) -> None:
    facts = prepared(connection)
    for statement in (
        "CREATE TABLE other (id int PRIMARY KEY)",
        f"ALTER PUBLICATION {MEND} ADD TABLE other",
        f'ALTER PUBLICATION {MEND} DROP TABLE "We""ird"',
        f"ALTER PUBLICATION {MEND} OWNER TO postgres",
        "ALTER TABLE docs RENAME TO papers",
    ):
        connection.execute(statement.encode())
    found = inspect_publication(connection, PUBLICATION)
    require_unchanged(facts.publication, found, [facts.tables["public.docs"]])


@both_versions
def test_column_lists_and_row_filters_are_seen(connection: Connection) -> None:
    connection.execute("ALTER TABLE docs REPLICA IDENTITY DEFAULT")
    connection.execute("CREATE PUBLICATION p FOR TABLE docs (id, n) WHERE (id > 3)")
    found = inspect_publication(connection, "p")
    assert found is not None
    (member,) = found.members
    assert (member.columns, member.row_filter) == ((1, 3), "(id > 3)")
    assert member.label == "public.docs"
    assert Publication.from_record(json.loads(json.dumps(found.to_record()))) == found


@both_versions
def test_all_tables_and_tables_of_a_schema_are_members(connection: Connection) -> None:
    docs, weird = tables_of(connection)
    connection.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    connection.execute("CREATE PUBLICATION schema_wide FOR TABLES IN SCHEMA public")
    for name, has_oid in (("everything", False), ("schema_wide", True)):
        found = inspect_publication(connection, name)
        assert found is not None and found.all_tables is not has_oid
        require_fitting(found, [docs, weird], pipeline="shop")
        member = found.member(docs.oid)
        assert member is not None and (member.member_oid is not None) is has_oid


@both_versions
def test_a_publication_that_does_not_fit_is_refused_with_what_mends_it(
    connection: Connection,
) -> None:
    docs, weird = tables_of(connection)
    connection.execute("CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY HASH (id)")
    connection.execute(
        "CREATE TABLE part PARTITION OF parts FOR VALUES WITH (modulus 1, remainder 0)"
    )
    parts = read_table(connection, "public", "parts")
    cases = [
        ("FOR TABLE docs WITH (publish = 'insert')", [docs], "omits update, delete, truncate"),
        ("FOR TABLE docs", [docs, weird], 'lacks public."We""ird"'),
        ("FOR TABLE parts", [parts], "under the partitions' names"),
    ]
    for definition, tables, told in cases:
        connection.execute(f"CREATE PUBLICATION p {definition}".encode())
        with pytest.raises(UsageError, match=told) as caught:
            prepared(connection, publication="p", tables=tables)
        connection.execute(caught.value.hint.encode())
        assert prepared(connection, publication="p", tables=tables).created
        drop(connection, slot=slot_of(connection), publication="p", pipeline="shop")
        connection.execute("DROP PUBLICATION p")


@both_versions
def test_a_publication_of_another_pipeline_is_refused(connection: Connection) -> None:
    create_publication(connection, "theirs", tables_of(connection), pipeline="other")
    with pytest.raises(UsageError, match="belongs to the pipeline 'other'"):
        prepared(connection, publication="theirs")
    assert inspect_slot(connection, slot_of(connection)) is None
    assert drop(connection, slot="none", publication="theirs", pipeline="shop") == ()
    assert inspect_publication(connection, "theirs") is not None


# --- dropping ----------------------------------------------------------------------------------------


@both_versions
def test_drop_removes_what_prepare_made_and_may_be_repeated(connection: Connection) -> None:
    facts = prepared(connection)
    names = {"slot": facts.slot, "publication": PUBLICATION, "pipeline": "shop"}
    assert drop(connection, **names) == (f"slot {facts.slot}", f"publication {MEND}")
    assert drop(connection, **names) == ()
    assert inspect_slot(connection, facts.slot) is None
    assert inspect_publication(connection, PUBLICATION) is None


# --- timelines ---------------------------------------------------------------------------------------

HISTORY = (
    TimelineSwitch(timeline=1, switch_lsn=Lsn.parse("0/5000000")),
    TimelineSwitch(timeline=2, switch_lsn=Lsn.parse("1/0")),
)


def test_a_history_file_is_read() -> None:
    text = b"# a comment\n1\t0/5000000\tno recovery target specified\n\n2\t1/0\tbefore \\x \xff\n"
    assert parse_timeline_history(text) == HISTORY


@pytest.mark.parametrize("text", [b"1", b"x\t0/1\n", b"1\tnowhere\n", b"2\t0/1\n1\t0/2\n"])
def test_a_malformed_history_stops(text: bytes) -> None:
    with pytest.raises(BridgeError) as caught:
        parse_timeline_history(text)
    assert caught.value.code == "PROTOCOL"


@pytest.mark.parametrize(
    ("lsn", "timeline", "current", "expected"),
    [
        ("9/0", 3, 3, True),
        ("0/5000000", 1, 3, True),
        ("0/5000001", 1, 3, False),
        ("1/0", 2, 3, True),
        ("1/1", 2, 3, False),
        ("0/1", 4, 3, False),
    ],
)
def test_a_position_behind_the_switch_is_not_on_the_history(
    lsn: str, timeline: int, current: int, expected: bool
) -> None:
    found = lies_on_history(Lsn.parse(lsn), timeline, current=current, history=HISTORY)
    assert found is expected
