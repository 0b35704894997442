"""Rows read again for a topic: from the right cluster, of a table that is there."""

from __future__ import annotations

from typing import cast

import pytest

from bridge.config_tables import TableSettings
from bridge.errors import StopError
from bridge.kafka_state import RECORD_NAME, KafkaState, read_kafka
from bridge.map_table import map_table
from bridge.postgres import catalog, identities
from bridge.postgres.connection import Connection, connect
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from sync.debezium import Reader
from sync.debezium_cluster import Cluster
from sync.debezium_reread import VisibleSource
from sync.debezium_rows import stream_table
from sync.debezium_sweep import SourceRows
from sync.debezium_tables import TopicTables
from sync.debezium_window import SEEN, UNKNOWN
from sync.tables import StreamTable
from tests.support.databases import Database
from tests.support.debezium_messages import MODES, envelope, record
from tests.support.kafka_fake import TOPIC, MemoryRecords, MemoryTarget


def followed(database: Database) -> StreamTable:
    database.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text)")
    database.execute("INSERT INTO docs VALUES (1, 'a')")
    with connect(database.url, allow_plaintext=False) as connection:
        table = catalog.read_table(connection, "public", "docs")
    return stream_table(map_table(table, TableSettings(vectors="none"), {}))


@pytest.mark.parametrize("xid", [SEEN, UNKNOWN])
def test_a_table_that_was_dropped_is_not_a_row_that_is_gone(database: Database, xid: int) -> None:
    table = followed(database)
    source = VisibleSource(database.url, allow_plaintext=False, wait=lambda seconds: None)
    fields = table.payload_fields
    try:
        assert len(source.read(table, fields, [["1"]], {xid}).rows) == 1
        assert not source.read(table, fields, [["2"]], {xid}).rows
        database.execute("DROP TABLE docs")
        database.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text)")
        with pytest.raises(StopError) as caught:
            source.read(table, fields, [["1"]], {xid})
    finally:
        source.close()
    assert caught.value.code == "SCHEMA_CHANGED"


def test_a_table_made_anew_is_not_compared_with(database: Database) -> None:
    table = followed(database)
    rows = SourceRows(connect(database.url, allow_plaintext=False, read_only=False))
    try:
        rows.require(table.mapping.table)
        database.execute("DROP TABLE docs")
        database.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text)")
        with pytest.raises(StopError) as caught:
            rows.require(table.mapping.table)
    finally:
        rows.close()
    assert caught.value.code == "SCHEMA_CHANGED"


def test_every_connection_is_compared_with_the_recorded_cluster(database: Database) -> None:
    table = followed(database)
    store = MemoryRecords()
    state = KafkaState(
        group="g", topics={}, copied=True, phase="reading", system_id="7000000000000000001"
    )
    store.put("stream", RECORD_NAME, state.to_record())
    cluster = Cluster(cast(QdrantState, store))
    seen: list[Connection] = []

    def check(connection: Connection) -> None:
        seen.append(connection)
        cluster.require(connection)

    source = VisibleSource(
        database.url, allow_plaintext=False, wait=lambda seconds: None, check=check
    )
    try:
        for xid in (SEEN, UNKNOWN):
            with pytest.raises(StopError) as caught:
                source.read(table, table.payload_fields, [["1"]], {xid})
            assert caught.value.code == "SOURCE_CHANGED"
    finally:
        source.close()
    assert len(seen) == 2
    assert read_kafka(store) == state


def test_a_column_that_is_made_again_is_taken_from_its_first_message_on(
    database: Database,
) -> None:
    database.execute("CREATE TABLE docs (id bigint PRIMARY KEY, more text)")
    tables = TopicTables(
        {"public.docs": TableSettings(vectors="none")},
        {TOPIC: "public.docs"},
        MODES,
        postgres_url=database.url,
        allow_plaintext=False,
        target=cast(Target, MemoryTarget()),
        store=cast(QdrantState, MemoryRecords()),
        clock=lambda: 0.0,  # so the catalog is looked at only when a message asks for it
    )

    def names(lsn: int) -> set[str]:
        message = envelope("u", {"id": 1, "more": None}, table="docs", lsn=lsn)
        told = Reader().read(record(message, {"id": 1}))
        assert told is not None
        return set(tables.rows(TOPIC, told).names)

    def position() -> int:
        with connect(database.url, allow_plaintext=False) as connection:
            return identities.insert_position(connection).value

    try:
        database.execute("ALTER TABLE docs DROP COLUMN more")
        old = position() - 1
        tables.open()
        assert names(old) == {"id"}
        assert names(old) == {"id"}
        database.execute("ALTER TABLE docs ADD COLUMN more text")
        assert names(position()) == {"id", "more"}
    finally:
        tables.close()


def test_the_newest_transaction_is_under_way_too(database: Database) -> None:
    database.execute("CREATE TABLE docs (id bigint PRIMARY KEY)")
    with (
        connect(database.url, allow_plaintext=False) as looker,
        database.connect(autocommit=False) as writer,
    ):
        # Nobody has begun or ended anything since: a snapshot does not list it.
        writer.execute("INSERT INTO docs VALUES (1)")
        ((xid,),) = writer.execute("SELECT pg_current_xact_id()::text").fetchall()
        assert int(xid) & 0xFFFFFFFF in identities.in_progress(looker)
        writer.commit()
        assert int(xid) & 0xFFFFFFFF not in identities.in_progress(looker)
