"""Every captured message of a real Debezium against the database that its statements make.

The statements of a run are executed step by step; after each step, the last message about each key must
give the very point that the row in Postgres gives: what it does not tell (`UNTOLD`) is taken from there,
everything else must be the same value. So Postgres is the oracle of each value, and the list below of
what is left to a second look.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import pytest

from bridge.postgres.connection import Connection, connect
from sync.debezium import Happened, Reader
from sync.debezium_modes import Modes
from sync.source import RereadSource
from tests.support.databases import Database
from tests.support.debezium_captured import (
    FILES,
    Line,
    filled,
    lines,
    modes_of,
    point,
    rows_of,
    run_of,
    stored,
    untold,
)
from tests.support.debezium_untold import UNTOLD
from tests.support.kafka_debezium.runs import RUNS


@pytest.fixture
def source(database: Database) -> Iterator[RereadSource]:
    source = RereadSource(database.url, allow_plaintext=False, wait=lambda seconds: None)
    yield source
    source.close()


@pytest.fixture
def catalog(database: Database) -> Iterator[Connection]:
    with connect(database.url) as connection:
        yield connection


def execute(database: Database, sql: str) -> None:
    with database.connect() as connection:
        for statement in sql.split("; ") if sql else []:
            connection.execute(statement)


@pytest.mark.parametrize("name", FILES)
def test_messages_tell_what_postgres_holds(
    name: str, database: Database, source: RereadSource, catalog: Connection
) -> None:
    ddl, steps, _settings = RUNS[run_of(name)]
    database.execute("CREATE TABLE marks (mark text PRIMARY KEY)")
    database.execute(ddl)
    statements, modes = dict(steps), modes_of(name)
    found: dict[str, set[str]] = {}
    done: set[str] = set()
    for step, group in groupby(lines(name), lambda line: line.step):
        for earlier, sql in steps:
            # A step without messages of its own has happened too.
            if earlier not in done and step != "snapshot":
                execute(database, sql)
                done.add(earlier)
            if earlier == step:
                break
        assert step == "snapshot" or step in statements
        missing = _compare(list(group), catalog, source, modes)
        if missing:
            found.setdefault(step, set()).update(missing)
    assert found == (UNTOLD.get(name) or UNTOLD.get(run_of(name), {}))


def _compare(
    group: list[Line], catalog: Connection, source: RereadSource, modes: Modes
) -> set[str]:
    """The columns that the messages of a step do not tell; everything else is what is stored."""
    reader = Reader()
    last: dict[tuple[str, str, object], Happened] = {}
    for line in group:
        told = None if line.record is None else reader.read(line.record)
        if told is None or told.kind == "truncate":
            continue
        assert line.record is not None
        schema, table = _place(told, line.record.topic)
        if table in ("marks", "signals"):
            continue
        rows = rows_of(catalog, schema, table, modes)
        row = rows.key(told) if told.row is None else rows.row(told)
        last[schema, table, rows.table.id_of(row)] = told
    missing: set[str] = set()
    for (schema, table, _identity), told in last.items():
        rows = rows_of(catalog, schema, table, modes)
        row = rows.key(told) if told.row is None else rows.row(told)
        now = stored(source, rows.table, row)
        if told.row is None:
            assert now is None
            continue
        assert now is not None
        assert point(rows.table, filled(row, now)) == point(rows.table, now)
        missing |= untold(rows.table, row)
    return missing


def _place(told: Happened, topic: str) -> tuple[str, str]:
    """Where it happened; a tombstone tells it by its topic only."""
    if told.schema_name is not None and told.table_name is not None:
        return told.schema_name, told.table_name
    _prefix, schema, table = topic.split(".")
    return schema, table.replace("Table_Name", "Table Name")
