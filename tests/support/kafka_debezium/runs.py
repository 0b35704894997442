# ruff: noqa: E501  (statements are data)
"""The statements behind tests/data/debezium, by run: DDL, steps, settings of the connector.

The same as in tests/data/debezium/README.md, so that a database can be brought to the state that a
message tells of. The settings are those on top of `connector.json`.
"""

from __future__ import annotations

LONG_VECTOR = "(SELECT array_agg((({seed} + i) % 7 - 3) / 4.0 ORDER BY i) FROM generate_series(1, 1536) i)::real[]::vector"
LONG_TEXT = "(SELECT string_agg(md5(({seed} + i)::text), '') FROM generate_series(1, 90) i)"

KINDS = """
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE pair AS (a integer, b text);
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE TABLE kinds (
    id bigint PRIMARY KEY,
    c_smallint smallint, c_integer integer, c_uuid uuid,
    c_numeric_12_4 numeric(12,4), c_numeric_20_0 numeric(20,0), c_numeric numeric, c_money money,
    c_real real, c_double double precision, c_bool boolean,
    c_text text, c_varchar varchar(20), c_char char(5), c_name name,
    c_json json, c_jsonb jsonb, c_xml xml,
    c_timestamptz timestamptz, c_timestamptz_0 timestamptz(0), c_timestamp timestamp, c_timestamp_3 timestamp(3),
    c_date date, c_time time, c_time_3 time(3), c_timetz timetz, c_interval interval,
    c_int_array integer[], c_text_array text[], c_uuid_array uuid[], c_numeric_array numeric(8,2)[],
    c_timestamptz_array timestamptz[], c_jsonb_array jsonb[],
    c_bytea bytea, c_bit_1 bit(1), c_bit_16 bit(16), c_varbit bit varying(20),
    c_inet inet, c_cidr cidr, c_macaddr macaddr,
    c_enum mood, c_enum_array mood[], c_composite pair, c_domain positive,
    c_int4range int4range, c_tstzrange tstzrange, c_int4multirange int4multirange,
    c_point point, c_tsvector tsvector, c_oid oid,
    v_8 vector(8), v_any vector, v_half halfvec(16), v_sparse sparsevec(100), v_array vector(3)[]
);
"""

TYPICAL = """INSERT INTO kinds VALUES ({id},
    -7, 42, '0192d3c4-5b6a-7c8d-9e0f-a1b2c3d4e5f6',
    12345.6789, 12345678901234567890, 3.14159265358979323846264338327950288, 12.34,
    0.1, 0.1, true,
    'na\u00efve \u2603 \U0001f600 "quoted" \\back', 'varchar', 'ab', 'a_name',
    '{{"b": 1, "a": [1, 2.50, null]}}', '{{"b": 1, "a": [1, 2.50, null], "big": 9007199254740993}}', NULL,
    '2024-02-29 23:59:59.123456+02', '2024-02-29 23:59:59+02', '2024-02-29 23:59:59.123456', '2024-02-29 23:59:59.123',
    '2024-02-29', '23:59:59.123456', '23:59:59.123', '23:59:59.123456+05:30', '1 year 2 months 3 days 04:05:06.789',
    '{{1,NULL,3}}', '{{a,NULL,"c,d"}}', '{{0192d3c4-5b6a-7c8d-9e0f-a1b2c3d4e5f6}}', '{{1.50,-2.25}}',
    '{{"2024-02-29 23:59:59.123456+02"}}', ARRAY['{{"a": 1}}'::jsonb],
    '\\x00ff10ab', B'1', B'1000000000000011', B'10110',
    '192.168.0.1/24', '10.0.0.0/8', '08:00:2b:01:02:03',
    'happy', '{{sad,ok}}', ROW(1, 'x'), 5,
    '[1,10)', '["2024-01-01 00:00+00","2024-02-01 00:00+00")', '{{[1,3),[7,9)}}',
    '(1.5,-2.5)', 'fat:2 cat:1', 4294967295,
    '[0.1,-0.2,3,1e-20,5e10,16777217,0,-0.0]', '[1,2,3]',
    '[0.1,-0.2,65504,6e-8,0,1,2,3,4,5,6,7,8,9,10,11]', '{{1:0.5,50:-1.25,100:3}}/100', ARRAY['[1,2,3]','[4,5,6]']::vector(3)[])"""

EDGES = [
    ("numeric NaN", "INSERT INTO kinds (id, c_numeric) VALUES (101, 'NaN')"),
    ("numeric(12,4) NaN", "INSERT INTO kinds (id, c_numeric_12_4) VALUES (102, 'NaN')"),
    ("numeric Infinity", "INSERT INTO kinds (id, c_numeric) VALUES (103, 'Infinity')"),
    (
        "numeric 1e300 and 1e-30",
        "INSERT INTO kinds (id, c_numeric) VALUES (104, 1e300), (105, 1e-30)",
    ),
    (
        "real and double NaN, Infinity",
        "INSERT INTO kinds (id, c_real, c_double) VALUES (106, 'NaN', 'NaN'), (107, '-Infinity', 'Infinity')",
    ),
    (
        "real and double extremes",
        "INSERT INTO kinds (id, c_real, c_double) VALUES (108, 3.4028235e38, 1.7976931348623157e308), (109, 16777217, 9007199254740993), (110, 1e-45, 5e-324), (111, '-0', '-0')",
    ),
    (
        "bigint extremes",
        "INSERT INTO kinds (id) VALUES (9223372036854775807), (-9223372036854775808), (9007199254740993), (0)",
    ),
    (
        "timestamp infinity",
        "INSERT INTO kinds (id, c_timestamptz, c_timestamp) VALUES (112, 'infinity', 'infinity'), (113, '-infinity', '-infinity')",
    ),
    (
        "date infinity",
        "INSERT INTO kinds (id, c_date) VALUES (114, 'infinity'), (115, '-infinity')",
    ),
    (
        "BC and far dates",
        "INSERT INTO kinds (id, c_timestamptz, c_timestamp, c_date) VALUES (116, '0044-03-15 12:00:00+00 BC', '0044-03-15 12:00:00 BC', '0044-03-15 BC'), (117, '0001-01-01 00:00:00+00', '0001-01-01 00:00:00', '0001-01-01'), (118, '9999-12-31 23:59:59.999999+00', '9999-12-31 23:59:59.999999', '9999-12-31')",
    ),
    (
        "year 10000 and later",
        "INSERT INTO kinds (id, c_timestamptz, c_timestamp, c_date) VALUES (119, '20000-01-01 00:00:00+00', '20000-01-01 00:00:00', '20000-01-01')",
    ),
    (
        "time 24:00, negative interval",
        "INSERT INTO kinds (id, c_time, c_timetz, c_interval) VALUES (120, '24:00', '24:00+00', '-1 mon +2 days -00:00:01')",
    ),
    (
        "empty values",
        "INSERT INTO kinds (id, c_text, c_int_array, c_text_array, c_bytea, c_int4range, c_jsonb) VALUES (121, '', '{}', '{}', '', 'empty', '{}')",
    ),
    (
        "nested arrays",
        "INSERT INTO kinds (id, c_int_array, c_text_array) VALUES (122, '{{1,2},{3,4}}', '{{a,b},{c,d}}')",
    ),
    (
        "json null, json scalar",
        "INSERT INTO kinds (id, c_json, c_jsonb) VALUES (123, 'null', 'null'), (124, '\"text\"', '1e3')",
    ),
    (
        "placeholder as a real value",
        "INSERT INTO kinds (id, c_text) VALUES (125, '__debezium_unavailable_value')",
    ),
    (
        "text of control characters",
        "INSERT INTO kinds (id, c_text) VALUES (126, E'tab\\tnewline\\nbell\\x07 del\\x7f nbsp\\u00a0 ls\\u2028')",
    ),
    ("money negative", "INSERT INTO kinds (id, c_money) VALUES (127, '-1234.50')"),
    ("empty sparse vector", "INSERT INTO kinds (id, v_sparse) VALUES (128, '{}/100')"),
]

DOCS = f"""
CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text, n numeric(12,4), e vector(1536), small vector(8));
ALTER TABLE docs REPLICA IDENTITY {{identity}};
INSERT INTO docs VALUES
    (1, 'one', {LONG_TEXT.format(seed=1)}, 1.5, {LONG_VECTOR.format(seed=1)}, '[1,2,3,4,5,6,7,8]'),
    (2, 'two', NULL, NULL, NULL, NULL),
    (3, 'three', 'short', 3, {LONG_VECTOR.format(seed=3)}, '[1,2,3,4,5,6,7,8]');
"""

LIFE = [
    (
        "insert",
        f"INSERT INTO docs VALUES (4, 'four', {LONG_TEXT.format(seed=4)}, 4, {LONG_VECTOR.format(seed=4)}, '[8,7,6,5,4,3,2,1]')",
    ),
    ("insert NULL vectors", "INSERT INTO docs VALUES (5, 'five', 'short', NULL, NULL, NULL)"),
    ("update title; e and body unchanged TOAST", "UPDATE docs SET title = 'ONE' WHERE id = 1"),
    ("update title; all vectors NULL", "UPDATE docs SET title = 'TWO' WHERE id = 2"),
    ("update body; e unchanged TOAST", "UPDATE docs SET body = 'now short' WHERE id = 1"),
    ("update small; e unchanged TOAST", "UPDATE docs SET small = '[0,0,0,0,0,0,0,1]' WHERE id = 1"),
    ("update e", f"UPDATE docs SET e = {LONG_VECTOR.format(seed=5)} WHERE id = 3"),
    ("set e and small to NULL", "UPDATE docs SET e = NULL, small = NULL WHERE id = 3"),
    ("update without effect", "UPDATE docs SET title = title WHERE id = 4"),
    ("primary key change; e and body unchanged TOAST", "UPDATE docs SET id = 40 WHERE id = 4"),
    (
        "primary key and e changed",
        f"UPDATE docs SET id = 10, e = {LONG_VECTOR.format(seed=6)} WHERE id = 1",
    ),
    ("delete", "DELETE FROM docs WHERE id = 10"),
    (
        "delete and insert of one key in one transaction",
        "BEGIN; DELETE FROM docs WHERE id = 2; INSERT INTO docs VALUES (2, 'again', 'short', 2, NULL, '[1,1,1,1,1,1,1,1]'); COMMIT",
    ),
    (
        "three changes of one key in one transaction",
        "BEGIN; INSERT INTO docs VALUES (6, 'a', 'b', 1, NULL, NULL); UPDATE docs SET title = 'b' WHERE id = 6; DELETE FROM docs WHERE id = 6; COMMIT",
    ),
    (
        "savepoint rolled back",
        "BEGIN; INSERT INTO docs VALUES (7, 'kept', 'b', 1, NULL, NULL); SAVEPOINT s; INSERT INTO docs VALUES (8, 'not kept', 'b', 1, NULL, NULL); ROLLBACK TO s; COMMIT",
    ),
]
ENDS = [
    ("logical message, transactional", "SELECT pg_logical_emit_message(true, 'bridge', 'hello')"),
    (
        "logical message, not transactional",
        "SELECT pg_logical_emit_message(false, 'bridge', 'hello')",
    ),
    (
        "ADD COLUMN, insert",
        "ALTER TABLE docs ADD COLUMN extra integer DEFAULT 7; INSERT INTO docs VALUES (20, 'x', 'y', 1, NULL, NULL, 8)",
    ),
    ("ADD COLUMN: update of an old row", "UPDATE docs SET title = 'old row' WHERE id = 5"),
    (
        "RENAME COLUMN, insert",
        "ALTER TABLE docs RENAME COLUMN extra TO more; INSERT INTO docs VALUES (21, 'x', 'y', 1, NULL, NULL, 8)",
    ),
    (
        "ALTER TYPE integer to text, insert",
        "ALTER TABLE docs ALTER COLUMN more TYPE text; INSERT INTO docs VALUES (22, 'x', 'y', 1, NULL, NULL, 'eight')",
    ),
    (
        "DROP COLUMN, insert",
        "ALTER TABLE docs DROP COLUMN more; INSERT INTO docs VALUES (23, 'x', 'y', 1, NULL, NULL)",
    ),
    (
        "vector(8) becomes vector(4), insert",
        "ALTER TABLE docs ALTER COLUMN small TYPE vector(4) USING subvector(small, 1, 4); INSERT INTO docs VALUES (24, 'x', 'y', 1, NULL, '[1,2,3,4]')",
    ),
    (
        "mapped vector column dropped, insert",
        "ALTER TABLE docs DROP COLUMN small; INSERT INTO docs VALUES (25, 'x', 'y', 1, NULL)",
    ),
    ("truncate", "TRUNCATE docs"),
    ("insert after truncate", "INSERT INTO docs VALUES (1, 'x', 'y', 1, NULL)"),
]

NOTES = f"""
CREATE TABLE notes (id bigint PRIMARY KEY, title text, e vector(1536), small vector(4));
INSERT INTO notes VALUES (1, 'one', {LONG_VECTOR.format(seed=1)}, '[1,2,3,4]'), (2, 'two', NULL, NULL);
"""
NOTE_LIFE = [
    ("insert", "INSERT INTO notes VALUES (3, 'three', NULL, '[1,2,3,4]')"),
    ("update; e unchanged TOAST", "UPDATE notes SET title = 'ONE' WHERE id = 1"),
    ("update; e is NULL", "UPDATE notes SET title = 'TWO' WHERE id = 2"),
    ("set small to NULL", "UPDATE notes SET small = NULL WHERE id = 3"),
    ("primary key change; e unchanged TOAST", "UPDATE notes SET id = 10 WHERE id = 1"),
    ("delete", "DELETE FROM notes WHERE id = 2"),
    ("truncate", "TRUNCATE notes"),
]
FLAT = {
    "transforms": "flat",
    "transforms.flat.type": "io.debezium.transforms.ExtractNewRecordState",
}

TOAST = """
CREATE TABLE big (id bigint PRIMARY KEY, title text {null}, body text {null}, doc jsonb {null}, bin bytea {null}, huge numeric {null},
    tags text[] {null}, nums integer[] {null}, bigs bigint[] {null}, uuids uuid[] {null}, reals real[] {null},
    e vector(1536) {null}, h halfvec(1536) {null}, s sparsevec(2000) {null}, n integer {null}, at timestamptz {null}, ok boolean {null});
INSERT INTO big SELECT 1, 'one', {text}, jsonb_build_object('a', {text}), decode({text} || {text}, 'hex'), (SELECT string_agg(abs(hashint4(i))::text, '') FROM generate_series(1, 700) i)::numeric,
    (SELECT array_agg(md5(i::text)) FROM generate_series(1, 90) i), (SELECT array_agg(hashint4(i)) FROM generate_series(1, 700) i),
    (SELECT array_agg(hashint8extended(i, 0)) FROM generate_series(1, 300) i), (SELECT array_agg(md5(i::text)::uuid) FROM generate_series(1, 150) i),
    (SELECT array_agg(hashint4(i)::real) FROM generate_series(1, 700) i), {vector}, {vector}::halfvec,
    ('{{' || (SELECT string_agg(i || ':0.5', ',') FROM generate_series(1, 400) i) || '}}/2000')::sparsevec, 1, '2024-01-01 00:00+00', true;
"""
TOAST_STEPS = [
    ("update title; all that is long unchanged", "UPDATE big SET title = 'ONE'"),
    ("primary key change; all that is long unchanged", "UPDATE big SET id = 2"),
    ("delete", "DELETE FROM big"),
]

STRICT = f"""
CREATE TABLE strict (id bigint PRIMARY KEY, title text NOT NULL, n integer NOT NULL, p numeric(12,4) NOT NULL, ok boolean NOT NULL,
    at timestamptz NOT NULL, day date NOT NULL, u uuid NOT NULL, doc jsonb NOT NULL, small vector(4) NOT NULL, e vector(1536) NOT NULL);
INSERT INTO strict SELECT i, 't', 1, 1.5, true, '2024-01-01 00:00+00', '2024-01-01', md5('a')::uuid, '{{}}', '[1,2,3,4]', {LONG_VECTOR.format(seed=1)}
    FROM generate_series(1, 2) i;
"""
STRICT_STEPS = [
    ("delete", "DELETE FROM strict WHERE id = 2"),
    ("update e", f"UPDATE strict SET e = {LONG_VECTOR.format(seed=2)}"),
    ("update title; e unchanged TOAST", "UPDATE strict SET title = 'T'"),
    ("update e once more", f"UPDATE strict SET e = {LONG_VECTOR.format(seed=3)}"),
]

KEYS = """
CREATE TABLE k_uuid (id uuid PRIMARY KEY, t text);
CREATE TABLE k_text (id text PRIMARY KEY, t text);
CREATE TABLE k_composite (tenant integer, name text, at timestamptz, amount numeric(10,2), t text, PRIMARY KEY (name, tenant, at, amount));
CREATE TABLE k_none (a integer, t text);
ALTER TABLE k_none REPLICA IDENTITY FULL;
CREATE TABLE k_index (a integer NOT NULL, t text);
CREATE UNIQUE INDEX k_index_a ON k_index (a);
ALTER TABLE k_index REPLICA IDENTITY USING INDEX k_index_a;
CREATE TABLE k_part (id bigint, region text, t text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE k_part_eu PARTITION OF k_part FOR VALUES IN ('eu');
CREATE TABLE k_part_us PARTITION OF k_part FOR VALUES IN ('us');
CREATE SCHEMA "Odd";
CREATE TABLE "Odd"."Table Name" ("Id" integer PRIMARY KEY, "a-b" text, "é" text);
"""
KEY_STEPS = [
    ("uuid key", "INSERT INTO k_uuid VALUES ('0192D3C4-5B6A-7C8D-9E0F-A1B2C3D4E5F6', 'a')"),
    ("text key", "INSERT INTO k_text VALUES ('a \"b\" é', 'a'), ('', 'empty'), ('42', 'number')"),
    (
        "composite key: columns in table order or key order",
        "INSERT INTO k_composite VALUES (1, 'n', '2024-02-29 23:59:59.123456+02', 1.50, 'a'); DELETE FROM k_composite",
    ),
    (
        "no key, REPLICA IDENTITY FULL",
        "INSERT INTO k_none VALUES (1, 'a'); UPDATE k_none SET t = 'b'; DELETE FROM k_none",
    ),
    (
        "REPLICA IDENTITY USING INDEX",
        "INSERT INTO k_index VALUES (1, 'a'); UPDATE k_index SET t = 'b'; UPDATE k_index SET a = 2; DELETE FROM k_index",
    ),
    (
        "partitions; a row moves",
        "INSERT INTO k_part VALUES (1, 'eu', 'a'); UPDATE k_part SET region = 'us'; UPDATE k_part SET t = 'b'; DELETE FROM k_part",
    ),
    (
        "odd names",
        'INSERT INTO "Odd"."Table Name" VALUES (1, \'a\', \'b\'); UPDATE "Odd"."Table Name" SET "é" = \'c\'; DELETE FROM "Odd"."Table Name"',
    ),
]

KIND_ROWS = KINDS + TYPICAL.format(id=1) + ";\nINSERT INTO kinds (id) VALUES (2);"
KIND_STEPS = [
    ("insert", TYPICAL.format(id=3)),
    ("insert of NULLs", "INSERT INTO kinds (id) VALUES (4)"),
]
RESELECT = {
    "post.processors": "reselector",
    "reselector.type": "io.debezium.processors.reselect.ReselectColumnsPostProcessor",
}


def toast(null: str) -> str:
    return TOAST.format(null=null, text=LONG_TEXT.format(seed=1), vector=LONG_VECTOR.format(seed=1))


# run -> (DDL, steps, connector settings on top of connector.json)
RUNS: dict[str, tuple[str, list[tuple[str, str]], dict[str, str]]] = {
    "kinds": (KIND_ROWS, KIND_STEPS, {}),
    "kinds_string_connect": (KIND_ROWS, KIND_STEPS, {"decimal.handling.mode": "string", "time.precision.mode": "connect", "interval.handling.mode": "string", "binary.handling.mode": "base64"}),
    "kinds_double_isostring": (KIND_ROWS, KIND_STEPS, {"decimal.handling.mode": "double", "time.precision.mode": "isostring", "binary.handling.mode": "hex", "money.fraction.digits": "2"}),
    "kinds_microseconds_unknown": (KIND_ROWS, KIND_STEPS, {"time.precision.mode": "adaptive_time_microseconds", "include.unknown.datatypes": "true"}),
    "kinds_nanoseconds": (KIND_ROWS, KIND_STEPS, {"time.precision.mode": "nanoseconds"}),
    "edges": (KINDS, EDGES, {}),
    "edges_string_isostring": (KINDS, EDGES, {"decimal.handling.mode": "string", "time.precision.mode": "isostring"}),
    "edges_double": (KINDS, EDGES, {"decimal.handling.mode": "double", "time.precision.mode": "connect"}),
    "life_default": (DOCS.format(identity="DEFAULT"), LIFE + ENDS, {}),
    "transactions": (DOCS.format(identity="DEFAULT"), [*LIFE[-3:], ("two tables in one transaction", "BEGIN; INSERT INTO marks VALUES ('x'); INSERT INTO docs (id) VALUES (99); COMMIT")], {"heartbeat.interval.ms": "2000", "provide.transaction.metadata": "true"}),
    "life_full": (DOCS.format(identity="FULL"), LIFE + ENDS[-2:], {}),
    "life_placeholder": (DOCS.format(identity="DEFAULT"), LIFE[2:6], {"unavailable.value.placeholder": "hex:00ff00ff"}),
    "life_fail": (DOCS.format(identity="DEFAULT"), LIFE[2:4], {"event.converting.failure.handling.mode": "fail"}),
    "life_skip": (DOCS.format(identity="DEFAULT"), LIFE[2:4], {"event.converting.failure.handling.mode": "skip"}),
    "reselect_default": (DOCS.format(identity="DEFAULT"), LIFE[2:12], RESELECT | {"reselector.reselect.columns.include.list": "public.docs:e,public.docs:body,public.docs:small"}),
    "reselect_default_no_nulls": (DOCS.format(identity="DEFAULT"), LIFE[2:5], RESELECT | {"reselector.reselect.columns.include.list": "public.docs:e,public.docs:body", "reselector.reselect.null.values": "false"}),
    "reselect_full": (DOCS.format(identity="FULL"), LIFE[2:4] + LIFE[9:12], RESELECT | {"reselector.reselect.columns.include.list": "public.docs:e,public.docs:body"}),
    "toast": (toast(""), TOAST_STEPS, {}),
    "toast_not_null": (toast("NOT NULL"), TOAST_STEPS, {}),
    "toast_full": (toast("") + "ALTER TABLE big REPLICA IDENTITY FULL;", TOAST_STEPS[:1], {}),
    "not_null": (STRICT, STRICT_STEPS, {}),
    "not_null_reselect": (STRICT, STRICT_STEPS, RESELECT | {"reselector.reselect.columns.include.list": "public.strict:e"}),
    "not_null_full": (STRICT + "ALTER TABLE strict REPLICA IDENTITY FULL;", STRICT_STEPS[:3], {}),
    "flat_defaults": (NOTES, NOTE_LIFE, FLAT),
    "flat_op": (NOTES, NOTE_LIFE, FLAT | {"transforms.flat.add.fields": "op,table,lsn,source.ts_ms,source.snapshot", "transforms.flat.add.headers": "op"}),
    **{
        f"flat_{mode.replace('-', '_')}": (NOTES, NOTE_LIFE[4:6], FLAT | {"transforms.flat.add.fields": "op", "transforms.flat.delete.tombstone.handling.mode": mode})
        for mode in ("drop", "tombstone", "rewrite", "rewrite-with-tombstone", "delete-to-tombstone")
    },
    "keys": (KEYS, KEY_STEPS, {"publish.via.partition.root": "true"}),
    "incremental": (
        NOTES + "CREATE TABLE signals (id text PRIMARY KEY, type text, data text);",
        [
            ("incremental snapshot", """INSERT INTO signals VALUES ('a', 'execute-snapshot', '{"data-collections": ["public.notes"], "type": "incremental"}')"""),
            ("update after it", "UPDATE notes SET title = 'ONE' WHERE id = 1"),
        ],
        {"snapshot.mode": "no_data", "signal.data.collection": "public.signals"},
    ),
}  # fmt: skip
