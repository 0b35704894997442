"""What the catalog says of real relations, on both Postgres versions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from psycopg import sql

from bridge.errors import UsageError
from bridge.postgres.catalog import (
    ServerFacts,
    inherited_children,
    list_tables,
    read_table,
    require_supported,
    server_facts,
)
from bridge.postgres.connection import Connection, connect
from bridge.schema import Index, Table
from tests.conftest import BOTH_VERSIONS, Database

pytestmark = pytest.mark.parametrize("postgres_version", BOTH_VERSIONS, indirect=True)


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with connect(database.url, read_only=False) as opened:
        yield opened


def index(table: Table, name: str) -> Index:
    return next(found for found in table.indexes if found.name == name)


def test_columns_with_modifiers_domains_arrays_and_enums(connection: Connection) -> None:
    connection.execute("""
        CREATE TYPE mood AS ENUM ('a', 'b');
        CREATE DOMAIN short AS varchar(10);
        CREATE DOMAIN shorter AS short NOT NULL;
        CREATE DOMAIN embedding AS vector(3);
        CREATE DOMAIN many AS vector(4)[];
        CREATE TABLE t (
          id bigint PRIMARY KEY, plain text, amount numeric(12,4) NOT NULL, feeling mood, s shorter,
          v vector(5), h halfvec(6), sp sparsevec(7), b bit(8), free vector,
          vs vector(2)[], dv embedding, dvs embedding[], m many, i2 int2vector, gone int,
          doubled numeric GENERATED ALWAYS AS (amount * 2) STORED, r int4range, c pg_class);
        ALTER TABLE t DROP COLUMN gone;
    """)
    table = read_table(connection, "public", "t")
    names = " ".join(column.name for column in table.columns)
    assert names == "id plain amount feeling s v h sp b free vs dv dvs m i2 doubled r c"
    assert table.column("doubled").number == 17
    assert table.column("doubled").generated == "stored"
    assert table.column("amount").declared == "numeric(12,4)"
    assert table.column("amount").not_null and not table.column("plain").not_null
    assert table.column("feeling").type.kind == "enum"
    short = table.column("s")
    assert (short.type.schema, short.type.name) == ("pg_catalog", "varchar")
    assert short.type.modifier == 14
    assert short.declared == "shorter"
    dimensions = {name: table.column(name).type.modifier for name in ("v", "h", "sp", "b", "free")}
    assert dimensions == {"v": 5, "h": 6, "sp": 7, "b": 8, "free": -1}
    for name, dimension in (("vs", 2), ("dvs", 3), ("m", 4)):
        pg_type = table.column(name).type
        assert pg_type.kind == "array" and pg_type.element is not None
        assert (pg_type.element.name, pg_type.element.modifier) == ("vector", dimension)
    assert (table.column("dv").type.name, table.column("dv").type.modifier) == ("vector", 3)
    assert (table.column("i2").type.kind, table.column("i2").type.element) == ("base", None)
    assert table.column("r").type.kind == "range"
    assert table.column("c").type.kind == "composite"


def test_a_virtual_generated_column(connection: Connection, database: Database) -> None:
    kind = "VIRTUAL" if connection.info.server_version >= 180000 else "STORED"
    connection.execute(f"CREATE TABLE t (a int, b int GENERATED ALWAYS AS (a + 1) {kind})".encode())
    assert read_table(connection, None, "t").column("b").generated == kind.lower()


def test_the_primary_key_is_in_its_indexs_order(connection: Connection) -> None:
    connection.execute(
        "CREATE TABLE t (a int, b text, c uuid, d int, PRIMARY KEY (c, a) INCLUDE (d))"
    )
    table = read_table(connection, None, "t")
    assert table.primary_key == ("c", "a")
    assert index(table, "t_pkey").columns == ("c", "a")


def test_indexes_with_options_opclasses_expressions_and_predicates(connection: Connection) -> None:
    connection.execute("""
        CREATE TABLE t (id int PRIMARY KEY, v vector(3), w halfvec(3), n text, j jsonb);
        CREATE INDEX cosine ON t USING hnsw (v vector_cosine_ops)
          WITH (m = 8, ef_construction = 40);
        CREATE INDEX lists ON t USING ivfflat (v vector_l2_ops) WITH (lists = 1);
        CREATE INDEX half ON t USING hnsw ((v::halfvec(3)) halfvec_ip_ops);
        CREATE INDEX few ON t USING hnsw (w halfvec_l2_ops) WHERE id > 5;
        CREATE INDEX gin ON t USING gin (j jsonb_path_ops);
        CREATE UNIQUE INDEX uniq ON t (n DESC, lower(n));
    """)
    table = read_table(connection, None, "t")
    cosine = index(table, "cosine")
    assert (cosine.method, cosine.columns, cosine.opclasses) == (
        "hnsw",
        ("v",),
        ("vector_cosine_ops",),
    )
    assert cosine.options == {"m": "8", "ef_construction": "40"}
    assert cosine.plain and index(table, "lists").plain
    assert index(table, "half").columns == ("",) and not index(table, "half").plain
    assert index(table, "few").partial and not index(table, "few").plain
    assert (index(table, "gin").method, index(table, "gin").columns) == ("gin", ("j",))
    assert index(table, "uniq").unique and index(table, "uniq").columns == ("n", "")
    assert index(table, "t_pkey").primary


def test_an_index_that_failed_to_build_is_not_valid(connection: Connection) -> None:
    connection.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1), (1)")
    with pytest.raises(Exception, match="could not create unique index"):
        connection.execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON t (a)")
    assert not index(read_table(connection, None, "t"), "broken").plain


def test_a_partitioned_table_has_leaves_and_the_roots_indexes(connection: Connection) -> None:
    connection.execute("""
        CREATE SCHEMA parts;
        CREATE TABLE t (id int, day int, v vector(3), PRIMARY KEY (id, day))
          PARTITION BY RANGE (day);
        CREATE TABLE parts."P;1" PARTITION OF t FOR VALUES FROM (0) TO (10);
        CREATE TABLE p2 PARTITION OF t FOR VALUES FROM (10) TO (20) PARTITION BY LIST (id);
        CREATE TABLE p21 PARTITION OF p2 DEFAULT;
        CREATE INDEX root ON t USING hnsw (v vector_ip_ops) WITH (m = 5);
        INSERT INTO t SELECT i, i % 20, '[1,2,3]' FROM generate_series(1, 100) i;
    """)
    table = read_table(connection, None, "t")
    assert table.kind == "partitioned table"
    assert [leaf[1:] for leaf in table.partitions] == [("parts", "P;1"), ("public", "p21")]
    assert table.primary_key == ("id", "day")
    assert table.estimated_rows == -1
    vector_indexes = [found for found in table.indexes if found.method == "hnsw"]
    assert [found.name for found in vector_indexes] == ["root"]
    assert vector_indexes[0].options == {"m": "5"}
    connection.execute("ANALYZE t")
    assert read_table(connection, None, "t").estimated_rows == 100


def test_indexes_that_all_partitions_share_stand_for_the_root(connection: Connection) -> None:
    connection.execute("""
        CREATE TABLE t (id int, v vector(3), w vector(3)) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF t FOR VALUES FROM (0) TO (10);
        CREATE TABLE p2 PARTITION OF t FOR VALUES FROM (10) TO (20);
        CREATE INDEX a1 ON p1 USING hnsw (v vector_l2_ops) WITH (m = 8, ef_construction = 40);
        CREATE INDEX a2 ON p2 USING hnsw (v vector_l2_ops) WITH (m = 8, ef_construction = 50);
        CREATE INDEX b1 ON p1 USING hnsw (w vector_l2_ops);
        CREATE UNIQUE INDEX u1 ON p1 (id);
        CREATE UNIQUE INDEX u2 ON p2 (id);
    """)
    table = read_table(connection, None, "t")
    vector_indexes = [found for found in table.indexes if found.method == "hnsw"]
    assert [found.columns for found in vector_indexes] == [("v",)]
    assert vector_indexes[0].options == {"m": "8"}
    unique = [found for found in table.indexes if found.columns == ("id",)]
    assert [found.unique for found in unique] == [False]


def test_views_materialized_views_and_foreign_tables(connection: Connection) -> None:
    connection.execute("""
        CREATE TABLE t (id int PRIMARY KEY, v vector(3));
        CREATE VIEW view AS SELECT * FROM t;
        CREATE MATERIALIZED VIEW mat AS SELECT * FROM t;
        CREATE UNIQUE INDEX ON mat (id);
        CREATE FOREIGN DATA WRAPPER none;
        CREATE SERVER s FOREIGN DATA WRAPPER none;
        CREATE FOREIGN TABLE far (id int, v vector(3)) SERVER s;
    """)
    kinds = {name: read_table(connection, None, name).kind for name in ("view", "mat", "far")}
    assert kinds == {"view": "view", "mat": "materialized view", "far": "foreign table"}
    assert read_table(connection, None, "view").estimated_rows == -1
    assert read_table(connection, None, "view").primary_key == ()
    assert read_table(connection, None, "view").column("v").type.modifier == 3
    assert read_table(connection, None, "mat").indexes[0].unique


def test_inheriting_tables_are_told_apart_from_partitions(connection: Connection) -> None:
    connection.execute("""
        CREATE TABLE parent (id int PRIMARY KEY);
        CREATE TABLE child () INHERITS (parent);
        CREATE TABLE grandchild () INHERITS (child);
        INSERT INTO parent VALUES (1); INSERT INTO grandchild VALUES (1), (2);
        ANALYZE parent, child, grandchild;
    """)
    parent = read_table(connection, None, "parent")
    assert parent.partitions == () and parent.kind == "table"
    assert inherited_children(connection, parent) == ("public.child", "public.grandchild")
    assert parent.estimated_rows == 3


def test_the_estimate_follows_growth_since_the_last_analyze(connection: Connection) -> None:
    connection.execute("CREATE TABLE t (id int) WITH (autovacuum_enabled = off)")
    assert read_table(connection, None, "t").estimated_rows == 0
    connection.execute("INSERT INTO t SELECT generate_series(1, 10000)")
    assert read_table(connection, None, "t").estimated_rows == -1
    connection.execute("ANALYZE t")
    connection.execute("INSERT INTO t SELECT generate_series(1, 30000)")
    assert read_table(connection, None, "t").estimated_rows == pytest.approx(40000, rel=0.05)


@pytest.mark.parametrize(
    "name",
    ['say "hi"', "semi;colon", "100%s", "back\\slash", "zoë ☃ 表", "x" * 63, "UPPER", "a.b", "'"],
)
def test_odd_names_are_found_as_they_are(connection: Connection, name: str) -> None:
    identifier = sql.Identifier
    connection.execute(sql.SQL("CREATE SCHEMA {}").format(identifier(name)))
    connection.execute(
        sql.SQL("CREATE TABLE {} ({} int PRIMARY KEY)").format(
            identifier(name, name), identifier(name)
        )
    )
    table = read_table(connection, name, name)
    assert (table.schema, table.name, table.primary_key) == (name, name, (name,))
    connection.execute(sql.SQL("SET search_path = {}").format(identifier(name)))
    assert read_table(connection, None, name).oid == table.oid


def test_without_a_schema_the_search_path_decides(database: Database) -> None:
    database.execute("CREATE SCHEMA a; CREATE TABLE a.t (x int); CREATE TABLE t (y int)")
    with connect(database.url + "?search_path=a,public") as connection:
        assert read_table(connection, None, "t").schema == "a"
    with connect(database.url) as connection:
        assert read_table(connection, None, "t").schema == "public"


@pytest.mark.parametrize(
    ("schema", "name", "suggested"),
    [
        (None, "documnets", "public.documents"),
        (None, "DOCUMENTS", "public.documents"),
        ("public", "Items", 'app."Items"'),
        (None, "app.Items", 'app."Items"'),
        ("nowhere", "documents", "public.documents"),
        (None, "zzzzzzzzzz", "similar name"),
        (None, "documents\0", "public.documents"),
        (None, "", "similar name"),
    ],
)
def test_an_unknown_table_suggests_near_names(
    connection: Connection, schema: str | None, name: str, suggested: str
) -> None:
    connection.execute('CREATE SCHEMA app; CREATE TABLE documents (); CREATE TABLE app."Items" ()')
    with pytest.raises(UsageError, match="there is no table or view") as caught:
        read_table(connection, schema, name)
    assert suggested in caught.value.hint


def test_an_index_or_sequence_is_no_table(connection: Connection) -> None:
    connection.execute("CREATE TABLE t (id serial PRIMARY KEY)")
    for name in ("t_pkey", "t_id_seq"):
        with pytest.raises(UsageError):
            read_table(connection, "public", name)


def test_row_security_concerns_only_roles_that_are_not_exempt(connection: Connection) -> None:
    connection.execute("""
        CREATE ROLE catalog_reader; CREATE ROLE catalog_owner; GRANT catalog_owner TO postgres;
        CREATE TABLE t (id int); ALTER TABLE t OWNER TO catalog_owner;
        ALTER TABLE t ENABLE ROW LEVEL SECURITY; GRANT SELECT ON t TO catalog_reader;
    """)
    try:
        found = {}
        for role in ("postgres", "catalog_owner", "catalog_reader"):
            connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
            found[role] = read_table(connection, None, "t").row_security
            connection.execute("RESET ROLE")
        assert found == {"postgres": False, "catalog_owner": False, "catalog_reader": True}
        connection.execute("ALTER TABLE t FORCE ROW LEVEL SECURITY; SET ROLE catalog_owner")
        assert read_table(connection, None, "t").row_security
    finally:
        connection.execute(
            "RESET ROLE; DROP TABLE t; DROP ROLE catalog_reader; DROP ROLE catalog_owner"
        )


def test_tables_with_vectors_are_listed(connection: Connection) -> None:
    connection.execute("""
        CREATE SCHEMA b; CREATE DOMAIN emb AS vector(3);
        CREATE TABLE plain (id int, flags bit(8));
        CREATE TABLE hashes (id int, h bit(8));
        CREATE INDEX ON hashes USING hnsw (h bit_hamming_ops);
        CREATE TABLE b.v (id int PRIMARY KEY, v vector);
        CREATE TABLE arrays (id int, v emb[]);
        CREATE TABLE root (id int, s sparsevec(9)) PARTITION BY LIST (id);
        CREATE TABLE leaf PARTITION OF root DEFAULT;
        CREATE VIEW view AS SELECT * FROM b.v;
        CREATE TEMP TABLE passing (v vector);
    """)
    found = list_tables(connection)
    assert [table.label for table in found] == [
        "b.v",
        "public.arrays",
        "public.hashes",
        "public.root",
    ]
    assert found[0].primary_key == ("id",)


def test_server_facts(connection: Connection) -> None:
    facts = server_facts(connection)
    assert facts.version_num // 10000 in (16, 18)
    assert facts.pgvector == "0.8.5"
    assert facts.system_identifier and facts.timeline == 1
    assert (facts.encoding, facts.in_recovery, facts.role) == ("UTF8", False, "postgres")
    assert facts.superuser and facts.replication and facts.bypass_row_security
    require_supported(facts)


def test_server_facts_without_the_right_to_ask(connection: Connection) -> None:
    connection.execute("""
        REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC;
        CREATE ROLE facts_reader; SET ROLE facts_reader
    """)
    try:
        facts = server_facts(connection)
        assert facts.system_identifier is None and facts.role == "facts_reader"
        assert not facts.superuser and not facts.replication
    finally:
        connection.execute("RESET ROLE; DROP ROLE facts_reader")


@pytest.mark.parametrize(
    ("version_num", "pgvector", "message"),
    [
        (130010, "0.8.5", "Postgres x is too old"),
        (160000, "0.4.4", "pgvector 0.4.4 is too old"),
        (160000, None, "not installed"),
    ],
)
def test_what_is_too_old_is_refused(
    connection: Connection, version_num: int, pgvector: str | None, message: str
) -> None:
    del connection
    facts = ServerFacts(
        version_num=version_num,
        version="x",
        pgvector=pgvector,
        system_identifier=None,
        timeline=None,
        encoding="UTF8",
        wal_level="replica",
        in_recovery=False,
        role="r",
        superuser=False,
        bypass_row_security=False,
        replication=False,
    )
    with pytest.raises(UsageError, match=message):
        require_supported(facts)
    if version_num >= 140000:
        require_supported(facts, vectors=False)
