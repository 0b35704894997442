"""Preflight checks against real tables, roles and policies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from psycopg import sql

from bridge.errors import UsageError
from bridge.findings import Finding, blockers
from bridge.postgres.catalog import read_table, server_facts
from bridge.postgres.checks import (
    check_connection,
    check_key,
    check_long_transactions,
    check_partitions,
    check_server,
    check_table,
    exact_count,
    partition_counts,
    vector_dimensions,
)
from bridge.postgres.connection import Connection, connect
from bridge.postgres.predicate import Wanted, row_filter, where_sql
from tests.conftest import BOTH_VERSIONS, Database

pytestmark = pytest.mark.parametrize("postgres_version", BOTH_VERSIONS, indirect=True)


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with connect(database.url, read_only=False) as opened:
        yield opened


@contextmanager
def role(connection: Connection, name: str, *grants: str) -> Iterator[Connection]:
    """A connection of a new role with these grants; the role is dropped afterwards."""
    connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
    try:
        for grant in grants:
            connection.execute(
                sql.SQL("GRANT {} TO {}").format(sql.SQL(grant), sql.Identifier(name))
            )
        info = connection.info
        url = f"host=127.0.0.1 port={info.port} dbname={info.dbname} user='{name}'"
        with connect(url) as opened:
            yield opened
    finally:
        connection.execute(
            sql.SQL("DROP OWNED BY {name}; DROP ROLE {name}").format(name=sql.Identifier(name))
        )


def checked(
    connection: Connection, name: str, key: list[str] | None = None, schema: str | None = None
) -> list[Finding]:
    table = read_table(connection, schema, name)
    return check_table(connection, table, key=table.primary_key if key is None else key)


# --- keys --------------------------------------------------------------------------------------


def test_a_primary_key_is_believed(connection: Connection) -> None:
    connection.execute("CREATE TABLE t (id int PRIMARY KEY, v vector(3))")
    assert {finding.level for finding in checked(connection, "t")} == {"ok"}


def test_a_unique_index_on_not_null_columns_is_believed(connection: Connection) -> None:
    connection.execute("CREATE TABLE t (a int UNIQUE NOT NULL, b int NOT NULL)")
    table = read_table(connection, None, "t")
    for key in (["a"], ["b", "a"]):
        assert [found.level for found in check_key(connection, table, key)] == ["ok"]
    found = check_key(connection, table, ["b"])
    assert [finding.level for finding in found] == ["warning"]


def test_without_a_key_the_usable_ones_are_named(connection: Connection) -> None:
    connection.execute("CREATE TABLE t (a int UNIQUE NOT NULL, b int UNIQUE)")
    (blocker,) = blockers(checked(connection, "t"))
    assert "no primary key" in blocker.message
    assert blocker.remedy.endswith("unique and not null: a")
    connection.execute("CREATE TABLE u (a int)")
    assert "ADD PRIMARY KEY" in blockers(checked(connection, "u"))[0].remedy


def test_an_unknown_key_column_blocks(connection: Connection) -> None:
    connection.execute("CREATE TABLE t (a int PRIMARY KEY)")
    assert 'no column "A b"' in blockers(checked(connection, "t", ["A b"]))[0].message


def test_a_key_without_an_order_blocks(connection: Connection) -> None:
    connection.execute("CREATE TABLE t (a json NOT NULL)")
    assert "cannot order" in blockers(checked(connection, "t", ["a"]))[0].message


def test_a_views_key_is_checked_row_by_row(connection: Connection) -> None:
    connection.execute("""
        CREATE TABLE t (a int, b text);
        INSERT INTO t VALUES (1, 'x'), (2, 'y'), (2, 'z'), (NULL, 'w');
        CREATE VIEW v AS SELECT * FROM t;
    """)
    found = {finding.check: finding for finding in blockers(checked(connection, "v", ["a"]))}
    assert set(found) == {"table.key_null", "table.key_duplicate"}
    assert "(a) = (2)" in found["table.key_duplicate"].message
    assert blockers(checked(connection, "v", ["b"])) == []
    assert [f.check for f in blockers(checked(connection, "v", ["a", "b"]))] == ["table.key_null"]
    view = read_table(connection, None, "v")
    only_one = check_key(connection, view, ["a"], where=where_sql(view, {"a": 1}))
    assert [finding.level for finding in only_one] == ["ok"]


def test_inheriting_tables_make_the_key_doubtful(connection: Connection) -> None:
    connection.execute("""
        CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE child () INHERITS (t);
        INSERT INTO t VALUES (1); INSERT INTO child VALUES (2);
    """)
    found = checked(connection, "t")
    assert not blockers(found)
    assert "table.inheritance" in [finding.check for finding in found]
    connection.execute("INSERT INTO child VALUES (1)")
    assert [finding.check for finding in blockers(checked(connection, "t"))] == [
        "table.key_duplicate"
    ]


# --- privileges and policies -------------------------------------------------------------------


def test_a_missing_privilege_names_the_grant(connection: Connection) -> None:
    connection.execute('CREATE SCHEMA "S;"; CREATE TABLE "S;"."T%s" (id int PRIMARY KEY, b int)')
    with role(connection, "chk reader") as reader:
        found = blockers(checked(reader, "T%s", schema="S;"))
    assert [finding.remedy for finding in found] == [
        'GRANT USAGE ON SCHEMA "S;" TO "chk reader";',
        'GRANT SELECT ON "S;"."T%s" TO "chk reader";',
    ]


def test_column_privileges_suffice_for_those_columns(connection: Connection) -> None:
    connection.execute("CREATE TABLE t (id int PRIMARY KEY, b int, c int)")
    with role(connection, "chk_columns", "SELECT (id, b) ON t") as reader:
        table = read_table(reader, None, "t")
        assert not blockers(check_table(reader, table, key=["id"], columns=["id", "b"]))
        (blocker,) = blockers(check_table(reader, table, key=["id"], columns=["id", "c"]))
        assert blocker.remedy == "GRANT SELECT (c) ON public.t TO chk_columns;"


def test_row_security_blocks_on_tables_and_behind_views(connection: Connection) -> None:
    connection.execute("""
        CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t ENABLE ROW LEVEL SECURITY;
        CREATE VIEW v WITH (security_invoker) AS SELECT * FROM t;
    """)
    assert not blockers(checked(connection, "t"))
    with role(connection, "chk_policy", "SELECT ON t", "SELECT ON v") as reader:
        assert [f.check for f in blockers(checked(reader, "t"))] == ["table.row_security"]
        (blocker,) = blockers(checked(reader, "v", ["id"]))
        assert blocker.check == "table.readable"
        assert "BYPASSRLS" in blocker.remedy


def test_an_unpopulated_materialized_view_blocks(connection: Connection) -> None:
    connection.execute("CREATE MATERIALIZED VIEW m AS SELECT 1 AS id WITH NO DATA")
    table = read_table(connection, None, "m")
    with pytest.raises(UsageError) as caught:
        exact_count(connection, table)
    assert "REFRESH" in caught.value.hint


def test_an_unknown_enum_label_in_where_blocks(connection: Connection) -> None:
    connection.execute(
        "CREATE TYPE mood AS ENUM ('a'); CREATE TABLE t (id int PRIMARY KEY, m mood)"
    )
    table = read_table(connection, None, "t")
    for label, blocked in (("a", False), ("b", True)):
        where = where_sql(table, {"m": label})
        found = blockers(check_table(connection, table, key=["id"], where=where))
        assert bool(found) is blocked


# --- counting ----------------------------------------------------------------------------------


def test_partitions_are_counted_through_the_root(connection: Connection) -> None:
    connection.execute("""
        CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE "p;1" PARTITION OF t FOR VALUES FROM (0) TO (10);
        CREATE TABLE p2 PARTITION OF t FOR VALUES FROM (10) TO (20);
        INSERT INTO t SELECT generate_series(0, 6);
    """)
    table = read_table(connection, None, "t")
    assert partition_counts(connection, table) == {'public."p;1"': 7, "public.p2": 0}
    assert exact_count(connection, table) == 7
    assert exact_count(connection, table, where_sql(table, {"id": [1, 2, 99]})) == 2
    assert [found.level for found in check_partitions(connection, table)] == ["ok"]
    connection.execute('ALTER TABLE t DETACH PARTITION "p;1"')
    (finding,) = check_partitions(connection, table)
    assert (finding.level, finding.check) == ("blocker", "table.partition")
    with role(connection, "chk_root", "SELECT ON t") as reader:
        assert partition_counts(reader, read_table(reader, None, "t")) == {"public.p2": 0}


@pytest.mark.parametrize("schema", ["public", "Odd %s"])
def test_dimensions_of_undimensioned_columns(connection: Connection, schema: str) -> None:
    connection.execute(
        sql.SQL(
            "DROP EXTENSION vector; CREATE SCHEMA IF NOT EXISTS {s};"
            "CREATE EXTENSION vector SCHEMA {s};"
            "CREATE TABLE t (id int, v {s}.vector, h {s}.halfvec, s {s}.sparsevec,"
            " vs {s}.vector[], bs bit(3));"
            "INSERT INTO t VALUES"
            " (1, '[1,2]', '[1]', '{{1:1}}/9', '{{\"[1,2]\",\"[1]\"}}', '101'),"
            " (2, '[1,2]', '[1,2,3]', '{{}}/9', '{{}}', '101'),"
            " (3, '[1]', NULL, NULL, NULL, NULL), (4, NULL, NULL, NULL, NULL, NULL);"
        ).format(s=sql.Identifier(schema))
    )
    table = read_table(connection, None, "t")
    found = {name: vector_dimensions(connection, table, name) for name in ("v", "h", "s", "vs")}
    assert found == {"v": {1: 1, 2: 2}, "h": {1: 1, 3: 1}, "s": {9: 2}, "vs": {1: 1, 2: 1}}
    assert vector_dimensions(connection, table, "bs") == {3: 2}
    where = where_sql(table, {"id": [1, 2]})
    assert vector_dimensions(connection, table, "v", where) == {2: 2}
    assert vector_dimensions(connection, table, "vs", where_sql(table, {"id": 3})) == {}


# --- the server and the predicate --------------------------------------------------------------


def test_the_server_and_its_connection(connection: Connection) -> None:
    facts = server_facts(connection)
    assert {finding.level for finding in check_server(facts)} == {"ok"}
    assert [finding.level for finding in check_connection(connection)] == ["ok"]
    old = replace(facts, version_num=130000, pgvector="0.4.4")
    assert [finding.check for finding in blockers(check_server(old))] == [
        "server.version",
        "server.pgvector",
    ]
    assert not blockers(check_server(replace(facts, pgvector=None), vectors=False))
    odd = check_server(replace(facts, encoding="SQL_ASCII", in_recovery=True))
    assert [finding.check for finding in odd if finding.level == "warning"] == [
        "server.encoding",
        "server.standby",
    ]


def test_young_transactions_are_no_finding(connection: Connection, database: Database) -> None:
    with database.connect(autocommit=False) as other:
        other.execute("SELECT 1")
        assert check_long_transactions(connection) == []


ROWS: tuple[tuple[object, ...], ...] = (
    (1, True, -1, "en", "ab", "glad", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    (2, False, 0, "EN", "ab   ", "it's", "00000000-0000-0000-0000-000000000000"),
    (3, None, None, None, None, None, None),
    (4, True, 32767, "en ", "", "glad", None),
    (5, None, 5, "é%s\\", " ab", None, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    (6, False, -32768, "", "x", "it's", None),
)
WHERES: tuple[dict[str, Wanted], ...] = (
    {"flag": True},
    {"flag": [True, False]},
    {"flag": None},
    {"flag": [False, None]},
    {"n": [-1, 5]},
    {"n": -32768},
    {"lang": "en"},
    {"lang": ["en ", "é%s\\", ""]},
    {"lang": "not null", "n": "not null"},
    {"lang": None},
    {"code": "ab"},
    {"code": ""},
    {"mood": "it's"},
    {"mood": ["glad", None], "flag": True},
    {"ref": "{A0EEBC999C0B4EF8BB6D6BB9BD380A11}"},
)


def test_where_keeps_the_same_rows_in_sql_and_in_python(connection: Connection) -> None:
    connection.execute("""
        CREATE TYPE mood AS ENUM ('glad', 'it''s'); CREATE DOMAIN feeling AS mood;
        CREATE TABLE t (id int PRIMARY KEY, flag boolean, n smallint, lang varchar(9),
          code char(5), mood feeling, ref uuid)
    """)
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO t VALUES (%s, %s, %s, %s, %s, %s, %s)", ROWS)
    table = read_table(connection, None, "t")
    names = [column.name for column in table.columns]
    rows = [dict(zip(names, row, strict=True)) for row in connection.execute("SELECT * FROM t")]
    sizes = set()
    for where in WHERES:
        chosen = row_filter(table, where)
        assert chosen is not None
        query = sql.SQL("SELECT id FROM t WHERE {}").format(chosen.to_sql())
        kept = {row[0] for row in connection.execute(query)}
        assert kept == {row["id"] for row in rows if chosen.matches(row)}, where
        sizes.add(len(kept))
    assert sizes >= {1, 2, 4}
