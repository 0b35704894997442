"""Every type of design.md section 4, value by value, on every target."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import BOTH_VERSIONS, Database
from tests.support.command import bridge, config_file
from tests.support.comparison import Expectation, differences, quoted
from tests.support.places import PLACES, Place, open_place

Cases = list[str]  # SQL expressions, taken in turn; NULL joins every list

SETUP: Final = """
CREATE TYPE mood AS ENUM ('sad', 'so so', 'ha"ppy');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN very_positive AS positive;
CREATE DOMAIN numbers AS int[];
CREATE DOMAIN price AS numeric(8,2);
CREATE DOMAIN embedding AS vector(3);
"""

NUMBERS: Final[dict[str, tuple[str, Cases]]] = {
    "i2": ("smallint", ["0", "32767", "-32768"]),
    "i4": ("integer", ["1", "2147483647", "-2147483648"]),
    "i8": ("bigint", ["42", "9223372036854775807", "-9223372036854775808"]),
    "f4": ("real", ["0.1", "1", "-0.0", "'NaN'", "'-Infinity'", "3.4028235e38", "1e-45"]),
    "f8": (
        "double precision",
        ["0.1", "2", "-0.0", "'NaN'", "'Infinity'", "1.7976931348623157e308", "5e-324", "1e22"],
    ),
    "n": ("numeric", ["1", "1.50", "-0.000001", "12345678.12345678", "'NaN'", "'-Infinity'"]),
    "n_declared": ("numeric(12,4)", ["1.5", "99999999.9999", "-3"]),
    "n_string": ("numeric", ["1.00", "123456789012345678901234567890.123456789", "1e400", "'NaN'"]),
    "n_integer": ("numeric", ["7", "-9223372036854775808", "5.000", "9223372036854775807"]),
    "money": ("money", ["12.34", "-1234567.89"]),
    "o": ("oid", ["0", "4294967295"]),
    "dom": ("positive", ["1", "77"]),
    "dom_dom": ("very_positive", ["2", "78"]),
    "dom_numeric": ("price", ["1.10", "-2"]),
}
TEXTS: Final[dict[str, tuple[str, Cases]]] = {
    "b": ("boolean", ["true", "false"]),
    "t": ("text", ["''", "'plain'", "'ünï – 漢字 🦆'", "E'tab\\tline\\nquote''\"\\\\'", "repeat('é', 9000)"]),
    "vc": ("varchar(10)", ["'short'", "'tail  '"]),
    "c": ("char(6)", ["'ab'", "'abcdef'", "''"]),
    "one_char": ('"char"', ["'x'", "''", "'\\351'"]),
    "nm": ("name", ["'a name'", "repeat('n', 63)"]),
    "e": ("mood", ["'sad'", "'so so'", "'ha\"ppy'"]),
    "u": ("uuid", ["'6F6C1F4E-9A3B-4D1C-8E7F-2A1B3C4D5E6F'", "'00000000000000000000000000000000'"]),
    "by": ("bytea", ["''", "'\\x00ff10'", "decode(repeat('0f', 16), 'hex')", "repeat('ab', 200)::bytea"]),
    "ip": ("inet", ["'10.0.0.1'", "'10.1.2.3/8'", "'::1'"]),
    "net": ("cidr", ["'192.168.0.0/16'"]),
    "mac": ("macaddr", ["'08:00:2b:01:02:03'"]),
    "comp": ("pair", ["(1, 'x y')::pair", "(NULL, '\"')::pair"]),
    "tsv": ("tsvector", ["to_tsvector('simple', 'the quick fox')", "''"]),
    "tsq": ("tsquery", ["'fat & (rat | cat)'"]),
    "pt": ("point", ["'(1,2)'", "'(-0.1,1e20)'", "'(NaN,1e-5)'"]),
    "bx": ("box", ["'(3,4),(1,2)'"]),
    "lsn": ("pg_lsn", ["'16/B374D848'"]),
    "vb": ("varbit", ["B'101'", "B''"]),
    "jp": ("jsonpath", ["'$.a[*]'"]),
    "r": ("int4range", ["'[1,5)'", "'empty'", "'(,3]'"]),
    "tsr": ("tstzrange", ["'[2024-01-01 00:00+02,)'"]),
    "nr": ("numrange", ["'(1.50,2]'"]),
    "mr": ("int4multirange", ["'{[1,3),[5,9)}'", "'{}'"]),
}  # fmt: skip
TIMES: Final[dict[str, tuple[str, Cases]]] = {
    "tstz": (
        "timestamptz",
        [
            "'2024-05-06 07:08:09.123456+02'",
            "'infinity'",
            "'0044-03-15 12:00:00+00 BC'",
            "'294276-12-31 23:59:59.999999+00'",
            "'1969-12-31 23:59:59.5+00'",
            "'0001-01-01 00:00:00+00'",
        ],
    ),
    "ts": ("timestamp", ["'2024-05-06 07:08:09'", "'-infinity'", "'4713-01-01 BC'", "'10000-01-01'"]),
    "d": ("date", ["'2024-02-29'", "'infinity'", "'0001-12-31 BC'", "'5874897-12-31'", "'9999-12-31'"]),
    "tm": ("time", ["'12:34:56.000001'", "'24:00:00'", "'00:00:00'"]),
    "tmtz": ("timetz", ["'12:34:56.5+05:30'", "'24:00:00+00'", "'00:00:00-15:59'", "'01:02:03-01:02:03'"]),
    "iv": (
        "interval",
        [
            "'-1 year -2 mons +3 days -04:05:06.789'",
            "'1 month -1 day'",
            "'0'",
            "'-0.000001 seconds'",
            "'178000000 years'",
            "'1 day -25:00:00'",
        ],
    ),
}  # fmt: skip
JSON_CASES: Final = [
    """'{"int": 1, "float": 1.0, "e": 1e2, "zero": -0.0, "t": true, "n": null, "empty": {}}'""",
    """'{"max": 9223372036854775807, "min": -9223372036854775808, "over": 9223372036854775808}'""",
    """'{"u64": 18446744073709551615, "huge": 123456789012345678901234567890, "beyond": 1e400}'""",
    """'{"deep": {"list": [1, [2.5, {"x": [null, "é\\u00e9\\n"]}], []], "": "empty key"}}'""",
    """'{"twice": 1, "twice": 2, "a.b": {"[0]": "\\"q\\""}}'""",
    "'null'",
    "'[]'",
    "'\"text\"'",
    "'false'",
    "'0.1'",
]
COLLECTIONS: Final[dict[str, tuple[str, Cases]]] = {
    "j": ("json", JSON_CASES),
    "jb": ("jsonb", JSON_CASES),
    "ints": ("int[]", ["'{}'", "'{1,NULL,3}'", "'{{1,2},{3,4}}'", "'[5:6]={7,8}'"]),
    "cube": ("int[][][]", ["'{{{1},{2}},{{3},{4}},{{5},{6}}}'"]),
    "texts": ("text[]", ["ARRAY['a', NULL, 'NULL', '', 'q\"\\,{}']", "ARRAY[['x'],['y']]"]),
    "floats": ("real[]", ["'{0.1,NaN,-Infinity,1}'"]),
    "doubles": ("float8[]", ["'{0.1,1,NULL}'"]),
    "numerics": ("numeric[]", ["'{1.50,NaN,2}'"]),
    "bools": ("bool[]", ["'{t,f,NULL}'"]),
    "uuids": ("uuid[]", ["'{6F6C1F4E-9A3B-4D1C-8E7F-2A1B3C4D5E6F}'"]),
    "stamps": ("timestamptz[]", ["'{2024-01-01 00:00:00.5+01,infinity}'"]),
    "dates": ("date[]", ["'{2024-01-01,-infinity,0044-03-15 BC}'"]),
    "spans": ("interval[]", ["'{-1 day,1 year 00:00:01}'"]),
    "blobs": ("bytea[]", ["ARRAY['\\x00'::bytea, '']"]),
    "moods": ("mood[]", ["'{sad,\"so so\"}'"]),
    "jsons": ("jsonb[]", ["""ARRAY['{"a": [1, 2.0]}'::jsonb, 'null', NULL]"""]),
    "chars": ("char(3)[]", ["'{a,bcd}'"]),
    "ranges": ("int4range[]", ["ARRAY['[1,3)'::int4range, 'empty']"]),
    "nets": ("inet[]", ["'{10.0.0.1,::1/64}'"]),
    "dom_array": ("numbers", ["'{4,5}'"]),
}
VECTORS: Final[dict[str, tuple[str, Cases]]] = {
    "v": ("vector(3)", ["'[1,2,3]'", "'[0,0,0]'", "'[-1e-20,1e18,0.1]'"]),
    "v_l2": ("vector(3)", ["'[1.1,-2.2,3.3]'", "'[0,0,0]'", "'[3.4e38,1e-45,-3.4e38]'"]),
    "v_ip": ("vector(2)", ["'[0.1,0.2]'"]),
    "v_l1": ("vector(2)", ["'[7,-7]'"]),
    "h": ("halfvec(3)", ["'[0.1,0.2,0.3]'", "'[0,0,0]'"]),
    "h_l2": ("halfvec(3)", ["'[65504,-0.1,6e-8]'", "'[0,0,0]'"]),
    "s": ("sparsevec(6)", ["'{1:3,6:4}/6'", "'{}/6'", "'{2:-0.5}/6'"]),
    "s_ip": ("sparsevec(1000000)", ["'{1:0.1,999999:-2.5}/1000000'", "'{}/1000000'"]),
    "bits": ("bit(11)", ["B'10110011101'", "B'00000000000'", "B'11111111111'"]),
    "many": ("vector(2)[]", ["ARRAY['[1,2]','[3,4]','[0,0]']::vector[]", "'{}'"]),
    "many_half": ("halfvec(2)[]", ["ARRAY['[1,0.1]','[2,2]']::halfvec[]", "'{}'"]),
    "dom_v": ("embedding", ["'[3,4,0]'"]),
    "free": ("vector", ["'[1,2,3,4]'", "'[0.5,0.5,0.5,0.5]'"]),
    "free_half": ("halfvec", ["'[1,2]'"]),
    "free_many": ("vector[]", ["ARRAY['[1,2,3]']::vector[]"]),
}
INDEXES: Final = """
CREATE INDEX ON every USING hnsw (v_l2 vector_l2_ops) WITH (m = 8, ef_construction = 32);
CREATE INDEX ON every USING hnsw (v_ip vector_ip_ops);
CREATE INDEX ON every USING hnsw (v_l1 vector_l1_ops);
CREATE INDEX ON every USING hnsw (h_l2 halfvec_l2_ops);
CREATE INDEX ON every USING hnsw (s_ip sparsevec_ip_ops);
"""
DISTANCES: Final = {
    "v_l2": "euclid", "v_ip": "dot", "v_l1": "manhattan", "h_l2": "euclid", "s_ip": "dot",
    "many": "dot", "free_half": "manhattan",
}  # fmt: skip
ALL: Final = {**NUMBERS, **TEXTS, **TIMES, **COLLECTIONS, **VECTORS}
ROWS: Final = 24


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with open_place(request.param, tmp_path) as opened:
        yield opened


def create(database: Database, columns: dict[str, tuple[str, Cases]]) -> None:
    """Table `every`: each case of each column in some row, in changing company; a row of NULLs."""
    database.execute(SETUP)
    types = [f"{quoted(name)} {type_}" for name, (type_, _cases) in columns.items()]
    generated = "twice int GENERATED ALWAYS AS (i4::int % 1000 * 2) STORED"
    database.execute(f"CREATE TABLE every (id bigint PRIMARY KEY, {', '.join(types)}, {generated})")
    lines = []
    for row in range(ROWS):
        cells = [
            f"({ring[(row + shift) % len(ring)]})::{type_}"
            for shift, (type_, cases) in enumerate(columns.values())
            if (ring := [*cases, "NULL"])
        ]
        lines.append(f"({row}, {', '.join(cells)})")
    lines.append(f"({ROWS}, {', '.join(['NULL'] * len(columns))})")
    names = ", ".join(["id", *map(quoted, columns)])
    database.execute(f"INSERT INTO every ({names}) VALUES {', '.join(lines)}")
    database.execute(INDEXES)


@pytest.mark.parametrize("postgres_version", BOTH_VERSIONS, indirect=True)
def test_a_table_of_every_type_arrives_value_by_value(
    database: Database, place: Place, tmp_path: Path
) -> None:
    columns = dict(ALL)
    if database.server.version == "18":
        columns["iv"] = ("interval", [*TIMES["iv"][1], "'infinity'", "'-infinity'"])
    create(database, columns)
    if database.server.version == "18":
        database.execute("ALTER TABLE every ADD virtual int GENERATED ALWAYS AS (i2 + 1) VIRTUAL")
    collection = place.name("every")
    config = config_file(
        tmp_path,
        {
            "pipeline": collection,
            "postgres": {"url": database.url},
            "qdrant": {"url": place.url},
            "tables": {
                "every": {
                    "collection": collection,
                    "numeric": {"n_string": "string", "n_integer": "integer"},
                    "vectors": {
                        "many": {"distance": "dot"},
                        "free_half": {"distance": "manhattan"},
                    },
                }
            },
        },
    )
    outcome = bridge("backfill", "pgvector", "--config", config, "--json").require()
    assert outcome.table["rows_read"] == outcome.table["target_count"] == ROWS + 1
    assert outcome.table["dead_letters"] == 0
    stored = place.points(collection)
    expected = Expectation(
        numeric={"n_string": "string", "n_integer": "integer"}, distances=DISTANCES
    )
    assert differences(database, "every", stored, expected) == []
    nothing = stored[ROWS]
    assert nothing.vectors == {}
    assert set(nothing.payload.values()) == {ROWS, None}
    assert "twice" not in nothing.payload and "virtual" not in nothing.payload
