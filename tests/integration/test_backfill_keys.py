"""Keys of every kind: cut into chunks, hashed or kept, every row exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import Database
from tests.support.command import bridge, config_file
from tests.support.comparison import Expectation, differences, quoted
from tests.support.places import PLACES, EdgePlace, Place, open_place

ROWS: Final = 1300  # chunks have at least 500 rows: three of them
ONE: Final = ("--migration.num-workers", "1")  # starting more would cost more than they save here

SETUP: Final = """
CREATE TYPE grade AS ENUM ('z last', 'a first', 'M');
CREATE DOMAIN code AS text;
CREATE DOMAIN graded AS grade;
"""
WEIRD: Final = (
    "(ARRAY['plain ', 'ünï 漢字 🦆', 'q''uo\"te', '100% %s %(x)s', E'back\\\\slash', E'new\\nline',"
    " '{brace}', ' ', 'B', 'b', 'É'])[i % 11 + 1] || i"
)
SPECIAL_TEXTS: Final = [
    "''",
    "'7'",
    "'007'",
    "'7.0'",
    "'-7'",
    "'NULL'",
    "'18446744073709551615'",
    "'18446744073709551616'",
    "'6f6c1f4e-9a3b-4d1c-8e7f-2a1b3c4d5e6f'",
    "'6F6C1F4E-9A3B-4D1C-8E7F-2A1B3C4D5E6F'",
    "'{6f6c1f4e-9a3b-4d1c-8e7f-2a1b3c4d5e6f}'",
    "'6f6c1f4e9a3b4d1c8e7f2a1b3c4d5e6f'",
    "'٧'",
]
# name -> (columns and types, expressions of i from 1 to ROWS, further rows)
KEYS: Final[dict[str, tuple[list[str], list[str], list[str]]]] = {
    "int, negative, with an outlier": (["int"], ["i - 650"], ["2147483647"]),
    "smallint": (["smallint"], ["(i - 700)::smallint"], []),
    "bigint at both ends": (["bigint"], ["i"], ["9223372036854775807", "-9223372036854775808"]),
    "numeric of changing scale": (
        ["numeric"],
        ["(CASE i % 4 WHEN 0 THEN i || '.0' WHEN 1 THEN i || '.00' WHEN 2 THEN '-' || i"
         " ELSE i::text END)::numeric"],
        ["'NaN'", "1e30", "1.5"],
    ),
    "double": (["float8"], ["i / 7.0::float8"], ["'NaN'", "'-Infinity'", "1e300", "-0.0"]),
    "uuid": (["uuid"], ["md5(i::text)::uuid"], []),
    "text of all kinds": (["text"], [WEIRD], SPECIAL_TEXTS),
    "text in another collation": (['text COLLATE "C"'], [WEIRD], SPECIAL_TEXTS),
    "varchar": (["varchar(40)"], ["'v' || i"], []),
    "char(n)": (["char(12)"], ["'c' || i"], ["''", "'7'"]),
    "boolean": (["bool"], ["i = 1"], []),
    "enum": (["grade"], ["(ARRAY['M', 'z last', 'a first']::grade[])[i]"], []),
    "domain of text": (["code"], [WEIRD], []),
    "domain of an enum and int": (
        ["graded", "int"],
        ["(ARRAY['M', 'z last', 'a first']::grade[])[i % 3 + 1]", "i"],
        [],
    ),
    "date": (["date"], ["'0003-01-01'::date - i * 7"], ["'infinity'", "'-infinity'"]),
    "timestamp": (["timestamp"], ["'2024-01-01'::timestamp + i * '0.1s'::interval"], []),
    "timestamptz": (
        ["timestamptz"],
        ["'1999-12-31 23:59+02'::timestamptz + i * '1 day 0.000001s'::interval"],
        ["'infinity'", "'0044-03-15 BC'"],
    ),
    "time": (["time"], ["'00:00'::time + i * '1 min'::interval"], ["'24:00'"]),
    "interval": (["interval"], ["i * '-1 day 3 hours'::interval"], ["'1 mon'"]),
    "bytea": (["bytea"], ["decode(md5(i::text), 'hex')"], ["''"]),
    "inet": (["inet"], ["'10.0.0.0'::inet + i * 77"], ["'::1'", "'10.0.0.0/8'"]),
    "array": (["int[]"], ["ARRAY[i % 7, i]"], ["'{}'"]),
    "two columns, skewed": (
        ["text", "int"],
        ["CASE WHEN i % 100 = 0 THEN 'small' ELSE 'BIG' END", "-i"],
        ["('', 0)"],
    ),
    "three columns": (
        ["uuid", "timestamptz", "bool"],
        ["md5((i % 3)::text)::uuid", "'2024-01-01'::timestamptz + i * '1s'::interval", "i % 2 = 0"],
        [],
    ),
    "numeric and text": (
        ["numeric", "text"],
        ["(i % 5 || CASE WHEN i % 5 = 0 THEN '' ELSE '.50' END)::numeric", WEIRD],
        ["(0.00, ',\"[]')"],
    ),
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> EdgePlace:
    return EdgePlace(tmp_path / "edge")


# What a server makes of a name is its own matter: those are tried on every target.
@pytest.fixture(params=PLACES)
def any_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with open_place(request.param, tmp_path) as opened:
        yield opened


def fill(database: Database, kind: str) -> list[str]:
    """Table `t` with such a key, analysed; the key's columns."""
    database.execute(SETUP)
    types, expressions, more = KEYS[kind]
    names = [f"k{number}" for number in range(len(types))]
    columns = ", ".join(f"{n} {t}" for n, t in zip(names, types, strict=True))
    # The key's order is not the columns': its index decides.
    key = ", ".join(reversed(names))
    database.execute(f"CREATE TABLE t ({columns}, body text, v vector(2), PRIMARY KEY ({key}))")
    rows = {"bool": 2, "grade": 3}.get(types[0], ROWS)
    vector = "ARRAY[i, 1]::real[]::vector"
    database.execute(
        f"INSERT INTO t SELECT {', '.join(expressions)}, 'row ' || i, {vector}"
        f" FROM generate_series(1, {rows}) i"
    )
    for values in more:
        database.execute(
            f"INSERT INTO t VALUES ({values.strip('()') if len(names) > 1 else values},"
            " 'special', '[1,1]')"
        )
    database.execute("ANALYZE t")
    return list(reversed(names))


# Kinds that take no path of their own.
ALIKE: Final = ("smallint", "text in another collation", "varchar", "boolean", "time", "inet")


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.long if kind in ALIKE else ()) for kind in KEYS],
)
def test_a_table_arrives_whole_whatever_its_key(
    database: Database, place: EdgePlace, kind: str
) -> None:
    key = fill(database, kind)
    outcome = bridge(
        "backfill", "pgvector", "--pg.url", database.url, "--pg.table", "t",
        "--qdrant.url", place.url, "--json", *ONE,
    ).require()  # fmt: skip
    ((rows,),) = database.execute("SELECT count(*) FROM t")
    assert outcome.table["rows_read"] == outcome.table["target_count"] == rows
    assert outcome.table["chunks"] >= (3 if rows >= ROWS else 1)
    assert differences(database, "t", place.points("t"), Expectation(key=key)) == []


def test_integer_keys_stay_integers_and_uuids_stay_uuids(
    database: Database, place: EdgePlace
) -> None:
    database.execute("CREATE TABLE n (id bigint PRIMARY KEY, v vector(1))")
    database.execute("INSERT INTO n VALUES (0, '[1]'), (42, '[1]'), (-1, '[1]')")
    database.execute("CREATE TABLE u (id uuid PRIMARY KEY, v vector(1))")
    database.execute("INSERT INTO u VALUES ('6F6C1F4E-9A3B-4D1C-8E7F-2A1B3C4D5E6F', '[1]')")
    for table in ("n", "u"):
        bridge(
            "backfill", "pgvector", "--pg.url", database.url, "--pg.table", table,
            "--qdrant.url", place.url,
        ).require()  # fmt: skip
    hashed = set(place.points("n")) - {0, 42}
    assert len(hashed) == 1 and all(isinstance(identity, str) for identity in hashed)
    assert set(place.points("u")) == {"6f6c1f4e-9a3b-4d1c-8e7f-2a1b3c4d5e6f"}


NAMED_ROWS: Final = 502  # two chunks, so that a bound is compared
NAMES: Final = {
    "quotes and semicolons": "we\"ird;--'",
    "percent and backslash": "100%s \\ %(x)s %%",
    "dots and brackets": "a.b[0].c",
    "unicode": "Größe 漢字",
    "63 bytes": "é" * 31 + "x",
    "a keyword": "select",
    "upper case": "MixedCase",
}


def create_named(database: Database, name: str) -> tuple[str, str, str, str]:
    """A table whose every name is made of this one: (its label, key, text, vector)."""
    label = f"{quoted(name)}.{quoted(name)}"
    key, body, vector = (f"{prefix}{name}" for prefix in ("", "b", "v"))
    if len(name.encode()) == 63:
        key, body, vector = (name[:-1] + letter for letter in "kbv")
    database.execute(f"CREATE SCHEMA {quoted(name)}")
    database.execute(
        f"CREATE TABLE {label} ({quoted(key)} int PRIMARY KEY, {quoted(body)} text,"
        f" {quoted(vector)} vector(2))"
    )
    database.execute(
        f"INSERT INTO {label} SELECT i, 'b' || i, ARRAY[i, 1]::real[]::vector"
        f" FROM generate_series(1, {NAMED_ROWS}) i"
    )
    database.execute(f"INSERT INTO {label} VALUES (-1, 'left out', '[1,1]')")
    database.execute(f"ANALYZE {label}")
    return label, key, body, vector


def test_names_are_quoted_everywhere(database: Database, any_place: Place, tmp_path: Path) -> None:
    made = [(any_place.name("names"), *create_named(database, name)) for name in NAMES.values()]
    tables = {
        label: {
            "collection": collection,
            "vectors": {vector: {"name": "v"}},
            "where": {body: [f"b{i}" for i in range(1, NAMED_ROWS + 1)]},
        }
        for collection, label, _key, body, vector in made
    }
    config = config_file(
        tmp_path,
        {
            "pipeline": any_place.name("pipe"),
            "postgres": {"url": database.url},
            "qdrant": {"url": any_place.url},
            "tables": tables,
        },
    )
    outcome = bridge("backfill", "pgvector", "--config", config, "--json", *ONE).require()
    assert [table["chunks"] for table in outcome.report["tables"].values()] == [2] * len(NAMES)
    for collection, label, key, body, vector in made:
        expected = Expectation(key=[key], names={vector: "v"}, where=f"{quoted(body)} LIKE 'b%'")
        assert differences(database, label, any_place.points(collection), expected) == []
