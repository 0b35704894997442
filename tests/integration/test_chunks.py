"""Chunk bounds against real Postgres: for every key type the ranges partition the table."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import pytest
from psycopg import sql

from bridge.errors import UsageError
from bridge.postgres.catalog import read_table
from bridge.postgres.chunks import (
    KeyRange,
    key_ranges,
    key_texts,
    keys_condition,
    plan_bounds,
    range_condition,
    relation,
)
from bridge.postgres.connection import Connection, connect
from bridge.schema import Table
from tests.conftest import BOTH_VERSIONS, Database

SEED = 20240607
ODD_TEXT = 'aA bB"\\%;{}é☃'

Make = Callable[[random.Random], str]


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with connect(database.url, read_only=False) as opened:
        yield opened


def integers(bits: int) -> Make:
    def make(rng: random.Random) -> str:
        near_zero, limit = rng.randint(-50, 50), 1 << (bits - 1)
        return str(rng.choice([near_zero, rng.randint(-limit, limit - 1), -limit, limit - 1]))

    return make


def text(rng: random.Random) -> str:
    return "".join(rng.choice(ODD_TEXT) for _ in range(rng.randint(0, 6)))


def ascii_text(rng: random.Random) -> str:
    return "".join(rng.choice("aAbB \\%'\"") for _ in range(rng.randint(0, 4)))


def number(rng: random.Random) -> str:
    special = ["NaN", "Infinity", "-Infinity", "0", "-0", "1.00", "1", "1e-7", "12345678901234.5"]
    return rng.choice([*special, repr(rng.uniform(-1e6, 1e6)), repr(rng.uniform(-1e-6, 1e-6))])


def float4(rng: random.Random) -> str:
    return rng.choice(["NaN", "Infinity", "-0", "0.1", "0.3", repr(rng.uniform(-9, 9))])


def bits(rng: random.Random) -> str:
    return f"{rng.getrandbits(8):08b}"


def timestamp(rng: random.Random) -> str:
    day = f"{rng.randint(1, 4000):04d}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
    clock = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}:07.{rng.randint(0, 999999):06d}"
    era = rng.choice(["", " BC"])
    return rng.choice(["infinity", "-infinity", f"{day} {clock}{era}"])


def clock(rng: random.Random) -> str:
    return f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}:01.{rng.randint(0, 999999):06d}"


def interval(rng: random.Random) -> str:
    return f"{rng.randint(-3, 3)} mons {rng.randint(-40, 40)} days {rng.uniform(-9e4, 9e4):.6f} s"


def uuid_text(rng: random.Random) -> str:
    return f"{rng.getrandbits(128):032x}"


# label: (SQL type, how its values are made); the types that need one are made by PREPARE.
TYPES: dict[str, tuple[str, Make]] = {
    "smallint": ("int2", integers(16)),
    "integer": ("int4", integers(32)),
    "bigint": ("int8", integers(64)),
    "numeric": ("numeric", number),
    "numeric(9,2)": ("numeric(9,2)", lambda rng: f"{rng.uniform(-1e6, 1e6):.2f}"),
    "real": ("real", float4),
    "double": ("double precision", number),
    "text": ("text", text),
    "text C": ('text COLLATE "C"', text),
    "varchar(6)": ("varchar(6)", text),
    "char(6)": ("char(6)", ascii_text),
    "quoted char": ('"char"', lambda rng: rng.choice(ODD_TEXT[:8])),
    "name": ("name", ascii_text),
    "bytea": ("bytea", lambda rng: "\\x" + rng.randbytes(rng.randint(0, 4)).hex()),
    "uuid": ("uuid", uuid_text),
    "boolean": ("boolean", lambda rng: rng.choice("tf")),
    "date": ("date", timestamp),
    "timestamp": ("timestamp", timestamp),
    "timestamptz": ("timestamptz(6)", timestamp),
    "time": ("time", clock),
    "timetz": ("timetz", lambda rng: clock(rng) + rng.choice(["+02", "-11:30", "+00"])),
    "interval": ("interval", interval),
    "money": ("money", lambda rng: f"{rng.uniform(-1e6, 1e6):.2f}"),
    "oid": ("oid", lambda rng: str(rng.getrandbits(32))),
    "inet": ("inet", lambda rng: f"10.0.{rng.randint(0, 3)}.{rng.randint(0, 255)}/24"),
    "cidr": ("cidr", lambda rng: f"10.{rng.randint(0, 9)}.0.0/{rng.randint(16, 24)}"),
    "macaddr": ("macaddr", lambda rng: rng.randbytes(6).hex(":")),
    "bit(8)": ("bit(8)", bits),
    "varbit": ("bit varying", lambda rng: bits(rng)[: rng.randint(0, 8)]),
    "jsonb": ("jsonb", lambda rng: rng.choice(['{"a": %d}', "[%d]", '"%d"']) % rng.randint(0, 9)),
    "integer[]": ("int4[]", lambda rng: f"{{{rng.randint(0, 9)},{rng.randint(0, 9)}}}"),
    "int4range": ("int4range", lambda rng: f"[{rng.randint(0, 9)},{rng.randint(9, 20)})"),
    "enum": ('"odd %s"."Mood;"', lambda rng: rng.choice(["z", "a b", "%s", "m'"])),
    "domain on varchar": ('"odd %s".short', ascii_text),
    "domain on domain": ('"odd %s".shorter', ascii_text),
    "domain on enum": ('"odd %s".feeling', lambda rng: rng.choice(["z", "a b", "%s"])),
    "domain on range": ('"odd %s".span', lambda rng: f"[{rng.randint(0, 9)},{rng.randint(9, 20)})"),
    "domain on array": (
        '"odd %s".list',
        lambda rng: f"{{{rng.randint(0, 9)},{rng.randint(0, 9)}}}",
    ),
    "domain on composite": ('"odd %s".couple', lambda rng: f"({rng.randint(0, 30)},a)"),
    "composite": ('"odd %s".pair', lambda rng: f"({rng.randint(0, 9)},{rng.choice('abc')})"),
    "vector": ("vector(2)", lambda rng: f"[{rng.randint(0, 9)},{rng.randint(0, 9)}]"),
}
PREPARE = """
    CREATE SCHEMA "odd %s";
    CREATE TYPE "odd %s"."Mood;" AS ENUM ('z', 'a b', '%s', 'm''');
    CREATE DOMAIN "odd %s".short AS varchar(4);
    CREATE DOMAIN "odd %s".shorter AS "odd %s".short CHECK (length(VALUE) < 5);
    CREATE DOMAIN "odd %s".feeling AS "odd %s"."Mood;";
    CREATE TYPE "odd %s".pair AS (a int, b text);
    CREATE DOMAIN "odd %s".span AS int4range;
    CREATE DOMAIN "odd %s".list AS int[];
    CREATE DOMAIN "odd %s".couple AS "odd %s".pair;
"""


def fill(
    connection: Connection, name: str, sql_types: Sequence[str], rows: list[list[str]]
) -> None:
    """A table `name` with key columns k0, k1, ... of these types, holding these rows once each."""
    columns = ", ".join(f"k{i} {sql_type}" for i, sql_type in enumerate(sql_types))
    names = ", ".join(f"k{i}" for i in range(len(sql_types)))
    connection.execute(f"CREATE TABLE {name} ({columns}, PRIMARY KEY ({names}))".encode())
    places = ", ".join(["%s"] * len(sql_types))
    with connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {name} VALUES ({places}) ON CONFLICT DO NOTHING".encode(), rows
        )


def times_covered(
    connection: Connection, table: Table, key: Sequence[str], ranges: Sequence[KeyRange]
) -> set[int]:
    """In how many of the ranges the table's rows are, over all rows."""
    conditions = [
        sql.SQL("({})::int").format(range_condition(table, key, key_range)) for key_range in ranges
    ]
    query = sql.SQL("SELECT DISTINCT {} FROM {}").format(
        sql.SQL(" + ").join(conditions), relation(table)
    )
    return {row[0] for row in connection.execute(query).fetchall()}


def sample_bounds(
    connection: Connection, table: Table, key: Sequence[str], rng: random.Random
) -> list[tuple[str, ...]]:
    """Some of the table's keys, in its order."""
    columns = sql.SQL(", ").join(map(sql.Identifier, key))
    query = sql.SQL("SELECT {} FROM {} ORDER BY {}").format(
        key_texts(key), relation(table), columns
    )
    keys = [tuple(row) for row in connection.execute(query).fetchall()]
    chosen = sorted(rng.sample(range(len(keys)), min(len(keys), rng.randint(1, 7))))
    return [keys[index] for index in chosen]


@pytest.mark.parametrize("postgres_version", BOTH_VERSIONS, indirect=True)
def test_ranges_partition_keys_of_every_type(connection: Connection) -> None:
    connection.execute(PREPARE)
    rng = random.Random(SEED)
    for number_, (label, (sql_type, make)) in enumerate(TYPES.items()):
        name = f"t{number_}"
        fill(connection, name, [sql_type], [[make(rng)] for _ in range(60)])
        table = read_table(connection, None, name)
        for target in (1, 7, 1000):
            bounds = plan_bounds(connection, table, ["k0"], target_rows=target)
            assert times_covered(connection, table, ["k0"], key_ranges(bounds)) == {1}, label
        bounds = sample_bounds(connection, table, ["k0"], rng)
        # The rows that gave the bounds may go, others may come.
        gone = keys_condition(table, ["k0"], bounds[:2])
        deleted = connection.execute(
            sql.SQL("DELETE FROM {} WHERE {}").format(relation(table), gone)
        )
        assert deleted.rowcount == len(bounds[:2]), label
        with connection.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO {name} VALUES (%s) ON CONFLICT DO NOTHING".encode(),
                [[make(rng)] for _ in range(20)],
            )
        assert times_covered(connection, table, ["k0"], key_ranges(bounds)) == {1}, label


@pytest.mark.parametrize("postgres_version", BOTH_VERSIONS, indirect=True)
def test_ranges_partition_composite_keys(connection: Connection) -> None:
    connection.execute(PREPARE)
    rng = random.Random(SEED)
    labels = ["integer", "text", "uuid", "enum", "timestamptz", "char(6)", "domain on varchar"]
    for attempt in range(15):
        chosen = [TYPES[label] for label in rng.choices(labels, k=rng.randint(2, 4))]
        few = [[make(rng) for _ in range(3)] for _, make in chosen]
        rows = [[rng.choice(values) for values in few] for _ in range(80)]
        fill(connection, f"c{attempt}", [sql_type for sql_type, _ in chosen], rows)
        table = read_table(connection, None, f"c{attempt}")
        key = table.primary_key
        for target in (1, 5):
            bounds = plan_bounds(connection, table, key, target_rows=target)
            assert times_covered(connection, table, key, key_ranges(bounds)) == {1}, chosen
        bounds = sample_bounds(connection, table, key, rng)
        assert times_covered(connection, table, key, key_ranges(bounds)) == {1}, chosen
        query = sql.SQL("SELECT {} FROM {} WHERE {}").format(
            key_texts(key), relation(table), keys_condition(table, key, bounds)
        )
        assert {tuple(row) for row in connection.execute(query)} == set(bounds)


def test_bounds_are_every_nth_key_in_the_types_own_order(connection: Connection) -> None:
    connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
    connection.execute("INSERT INTO t SELECT generate_series(1, 1000)")
    table = read_table(connection, None, "t")
    assert plan_bounds(connection, table, ["id"], target_rows=300) == [("300",), ("600",), ("900",)]


def test_a_skewed_key_gives_even_chunks(connection: Connection) -> None:
    connection.execute("CREATE TABLE t (id bigint PRIMARY KEY)")
    connection.execute("INSERT INTO t SELECT i * i * i * i FROM generate_series(1::bigint, 3000) i")
    table = read_table(connection, None, "t")
    bounds = plan_bounds(connection, table, ["id"], target_rows=100)
    assert sizes(connection, table, ["id"], bounds) == [100] * 30 + [0]


def sizes(
    connection: Connection, table: Table, key: Sequence[str], bounds: list[tuple[str, ...]]
) -> list[int]:
    found = []
    for key_range in key_ranges(bounds):
        condition = range_condition(table, key, key_range)
        query = sql.SQL("SELECT count(*) FROM {} WHERE {}").format(relation(table), condition)
        row = connection.execute(query).fetchone()
        assert row is not None
        found.append(row[0])
    return found


@pytest.mark.parametrize("analysed", [True, False])
def test_a_large_table_is_sampled_and_still_partitioned(
    connection: Connection, analysed: bool
) -> None:
    connection.execute("CREATE TABLE t (id uuid PRIMARY KEY, n int)")
    connection.execute(
        "INSERT INTO t SELECT md5(i::text)::uuid, i FROM generate_series(1, 40000) i"
    )
    if analysed:
        connection.execute("ANALYZE t")
    table = read_table(connection, None, "t")
    assert (table.estimated_rows == 40000) is analysed
    bounds = plan_bounds(connection, table, ["id"], target_rows=4000, exact_rows=1000)
    assert bounds != plan_bounds(connection, table, ["id"], target_rows=4000)
    assert 5 <= len(bounds) <= 18
    found = sizes(connection, table, ["id"], bounds)
    assert sum(found) == 40000
    assert max(found) < 12000
    assert times_covered(connection, table, ["id"], key_ranges(bounds)) == {1}


def test_a_partitioned_table_is_sampled_through_its_root(connection: Connection) -> None:
    connection.execute("CREATE TABLE t (id int PRIMARY KEY) PARTITION BY HASH (id)")
    for part in range(2):
        connection.execute(
            f"CREATE TABLE t{part} PARTITION OF t"
            f" FOR VALUES WITH (MODULUS 2, REMAINDER {part})".encode()
        )
    connection.execute("INSERT INTO t SELECT generate_series(1, 20000)")
    connection.execute("ANALYZE t")
    table = read_table(connection, None, "t")
    bounds = plan_bounds(connection, table, ["id"], target_rows=2000, exact_rows=1000)
    assert len(bounds) > 3
    assert sum(sizes(connection, table, ["id"], bounds)) == 20000


def test_a_view_is_ranked_exactly_and_where_applies(connection: Connection) -> None:
    connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
    connection.execute("INSERT INTO t SELECT generate_series(1, 100)")
    connection.execute("CREATE VIEW v AS SELECT id, id % 2 = 0 AS even FROM t")
    table = read_table(connection, None, "v")
    bounds = plan_bounds(
        connection, table, ["id"], target_rows=20, where=sql.SQL("even"), exact_rows=0
    )
    assert bounds == [("40",), ("80",)]


def test_an_empty_table_is_one_chunk(connection: Connection) -> None:
    connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
    table = read_table(connection, None, "t")
    bounds = plan_bounds(connection, table, ["id"], target_rows=10)
    assert key_ranges(bounds) == [KeyRange(lower=None, upper=None)]
    connection.execute("INSERT INTO t VALUES (1), (2)")
    assert sizes(connection, table, ["id"], bounds) == [2]


@pytest.mark.parametrize("max_chunks", [1, 2, 7, 100])
def test_chunks_never_exceed_the_maximum(connection: Connection, max_chunks: int) -> None:
    connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
    connection.execute("INSERT INTO t SELECT generate_series(1, 1000)")
    table = read_table(connection, None, "t")
    bounds = plan_bounds(connection, table, ["id"], target_rows=10, max_chunks=max_chunks)
    found = sizes(connection, table, ["id"], bounds)
    assert len(found) == max_chunks
    assert sum(found) == 1000
    assert max(found) <= 2 * 1000 / max_chunks


@pytest.mark.parametrize("postgres_version", BOTH_VERSIONS, indirect=True)
def test_odd_names_are_quoted(connection: Connection) -> None:
    names = ['"; DROP TABLE x; --', "100%s %(a)s", "back\\slash", "zoë ☃", "x" * 63, "n", "k0"]
    for number_, name in enumerate(names):
        schema, column = sql.Identifier(f"s{number_}{name}"[:60]), sql.Identifier(name)
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
        table_name = sql.Identifier(f"s{number_}{name}"[:60], name)
        connection.execute(
            sql.SQL("CREATE TABLE {} (rank int, {} text, PRIMARY KEY ({}, rank))").format(
                table_name, column, column
            )
        )
        connection.execute(
            sql.SQL("INSERT INTO {} SELECT i % 3, i || '%%' FROM generate_series(1, 50) i").format(
                table_name
            )
        )
        table = read_table(connection, f"s{number_}{name}"[:60], name)
        assert table.primary_key == (name, "rank")
        bounds = plan_bounds(connection, table, table.primary_key, target_rows=8)
        assert len(bounds) == 6
        assert times_covered(connection, table, table.primary_key, key_ranges(bounds)) == {1}


@pytest.mark.parametrize("postgres_version", BOTH_VERSIONS, indirect=True)
def test_the_primary_keys_index_serves_the_ranges(connection: Connection) -> None:
    connection.execute(PREPARE)
    rng = random.Random(SEED)
    shapes = [[label] for label in ("bigint", "uuid", "text", "char(6)", "numeric", "enum")]
    shapes += [["domain on varchar"], ["domain on enum"], ["integer", "domain on range"]]
    shapes += [["int4range"], ["domain on enum", "char(6)"], ["numeric(9,2)", "timestamptz"]]
    shapes += [
        ["composite", "integer[]"],
        ["integer", "text"],
        ["varchar(6)", "uuid", "timestamptz"],
    ]
    connection.execute("SET enable_seqscan = off")
    for number_, labels in enumerate(shapes):
        name = f"t{number_}"
        rows = [[TYPES[label][1](rng) for label in labels] for _ in range(200)]
        fill(connection, name, [TYPES[label][0] for label in labels], rows)
        table = read_table(connection, None, name)
        bounds = plan_bounds(connection, table, table.primary_key, target_rows=2)[:2]
        condition = range_condition(table, table.primary_key, key_ranges(bounds)[1])
        plan = connection.execute(
            sql.SQL("EXPLAIN SELECT * FROM {} WHERE {}").format(relation(table), condition)
        ).fetchall()
        lines = "\n".join(line for (line,) in plan)
        assert "Index Cond:" in lines and "Filter:" not in lines, (labels, lines)


@pytest.mark.parametrize("sql_type", ["json", "point", "xid", "box"])
def test_a_key_without_an_order_is_refused(connection: Connection, sql_type: str) -> None:
    connection.execute(f"CREATE TABLE t (id {sql_type} NOT NULL)".encode())
    table = read_table(connection, None, "t")
    with pytest.raises(UsageError, match=f"id has type {sql_type}, which Postgres cannot order"):
        plan_bounds(connection, table, ["id"], target_rows=10)


def test_a_type_whose_operators_are_off_the_search_path_keeps_its_order(
    connection: Connection,
) -> None:
    """As for citext in a schema of its own: left alone, `>` would fall back to another order."""
    connection.execute(
        "DROP EXTENSION vector; CREATE SCHEMA ext; CREATE EXTENSION vector SCHEMA ext"
    )
    rng = random.Random(SEED)
    vectors = [[f"[{rng.randint(-9, 9)},{rng.randint(-9, 9)}]", text(rng)] for _ in range(80)]
    fill(connection, "t", ["ext.vector(2)", "text"], vectors)
    fill(connection, "u", ["text", "ext.vector(2)"], [row[::-1] for row in vectors])
    for name in ("t", "u"):
        table = read_table(connection, None, name)
        bounds = plan_bounds(connection, table, table.primary_key, target_rows=7)
        assert len(bounds) >= 10
        assert times_covered(connection, table, table.primary_key, key_ranges(bounds)) == {1}
