"""docs/mapping.md against the program: every id, type, vector, distance and reason in its tables.

The tables are copied from a real Postgres into the test server and read back by the stock client.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
import yaml

from bridge.config_tables import TableSettings
from bridge.map_table import map_table
from bridge.point_ids import NAMESPACE, composite_text, key_point_id, point_id
from bridge.postgres.decode_text import text_loader
from bridge.schema import PgType
from bridge.values import ValuePolicy
from tests.docs.markdown import bare, read
from tests.docs.stage import Stage
from tests.support import source_tables
from tests.support.command import Outcome, bridge, config_file
from tests.support.stock_client import connect

PAGE = read("docs/mapping.md")


# --- ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", PAGE.table("point ids"), ids=lambda row: bare(row[0]))
def test_the_ids_of_single_keys(row: list[str]) -> None:
    assert str(point_id(bare(row[0]))) == bare(row[1])


def test_the_id_of_a_composite_key() -> None:
    ((key, text, expected),) = [list(map(bare, row)) for row in PAGE.table("composite ids")]
    assert key == "('eu', 42)"
    assert composite_text(["eu", "42"]) == text
    assert key_point_id(["eu", "42"]) == expected


@pytest.mark.parametrize("row", PAGE.table("id settings"), ids=lambda row: row[0] + row[1])
def test_the_ids_under_other_settings(row: list[str]) -> None:
    settings = TableSettings.model_validate({"id": yaml.safe_load(bare(row[0]))})
    rule = map_table(source_tables.table(id="text"), settings).id_rule
    assert rule.of([bare(row[1])]) == bare(row[2])


def test_the_namespace() -> None:
    assert f"namespace `{NAMESPACE}`" in PAGE.text


# --- rows of many types ---------------------------------------------------------------------------


def test_every_payload_type_is_stored_as_the_page_says(stage: Stage) -> None:
    """All types in one table: its columns are the rows of the documented one."""
    rows = PAGE.table("payload")
    wrong: list[str] = []
    payload = _payload_of(stage, rows)
    for number, (declared, value, _setting, stored) in enumerate(rows):
        found, expected = payload[f"c{number}"], json.loads(bare(stored))
        if not _equal(found, expected):
            wrong.append(f"{declared} {value}: {found!r} instead of {expected!r}")
    assert not wrong, "\n".join(wrong)


def _payload_of(stage: Stage, rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    for block in PAGE.blocks:
        if block.language == "sql" and "CREATE TYPE" in block.text:
            stage.sql(block)
    columns = ", ".join(f"c{number} {bare(row[0])}" for number, row in enumerate(rows))
    values = ", ".join(bare(row[1]) for row in rows)
    with psycopg.connect(stage.url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute(f"CREATE TABLE kinds (id int PRIMARY KEY, {columns})".encode())
        connection.execute(f"INSERT INTO kinds VALUES (1, {values})".encode())
    _backfill(stage, {"kinds": _merged(rows)})
    client = connect(stage.qdrant.port)
    try:
        (point,) = client.retrieve("kinds", [1])
    finally:
        client.close()
    return dict(point.payload or {})


def _merged(rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The settings of single rows as those of one table."""
    merged: dict[str, Any] = {"numeric": {}, "geo": []}
    for number, row in enumerate(rows):
        setting = yaml.safe_load(bare(row[2])) if row[2] else {}
        if "numeric" in setting:
            merged["numeric"][f"c{number}"] = setting["numeric"]
        if "geo" in setting:
            merged["geo"].append(f"c{number}")
    return merged


def _backfill(stage: Stage, tables: dict[str, Any]) -> Outcome:
    settings = {
        "pipeline": "docs",
        "postgres": {"url": stage.url},
        "qdrant": {"url": stage.qdrant.url},
        "migration": {"num_workers": 1},
        "tables": tables,
    }
    path = config_file(stage.work, settings)
    return bridge("backfill", "pgvector", "--config", path, "--json").require()


def _equal(found: Any, expected: Any) -> bool:
    """Equal in value and type, all the way down; text that ends in … by what stands before it."""
    if isinstance(expected, str) and expected.endswith("…"):
        return isinstance(found, str) and found.startswith(expected[:-1])
    if type(found) is not type(expected):
        return False
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(
            _equal(found[key], value) for key, value in expected.items()
        )
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(_equal, found, expected))
    return bool(found == expected)


def test_types_of_extensions_are_stored_as_the_page_says() -> None:
    # The embedded Postgres has none of them, so that their texts stand for what the server sends.
    for declared, text, stored in PAGE.table("extension types"):
        name = declared.split("`")[1]
        kind = PgType(oid=1, schema="public", name=name)
        plain = text_loader(kind, ValuePolicy())(bare(text))
        if name == "geometry":
            assert plain == bare(text)
            plain = text_loader(kind, ValuePolicy(geo=True))(bare(text))
        assert plain == json.loads(stored.split("`")[-2])


def test_every_dead_letter_has_the_reason_that_the_page_gives(stage: Stage) -> None:
    """All cases in one table: each in a column and a row of its own."""
    rows = PAGE.table("dead letters")
    columns = ", ".join(f"c{number} {bare(row[0])}" for number, row in enumerate(rows))
    with psycopg.connect(stage.url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute(f"CREATE TABLE kinds (id int PRIMARY KEY, {columns})".encode())
        for number, row in enumerate(rows):
            insert = f"INSERT INTO kinds (id, c{number}) VALUES ({number}, {bare(row[1])})"
            connection.execute(insert.encode())
    _backfill(stage, {"kinds": _merged(rows)})
    config = str(stage.work / "bridge.yaml")
    letters = bridge("dead-letters", "list", "--config", config, "--json").require().report
    reasons = {int(letter["key"]): letter["reason"] for letter in letters["dead_letters"]}
    assert reasons == {
        number: bare(row[3]).replace("column c:", f"column c{number}:")
        for number, row in enumerate(rows)
    }


# --- vectors --------------------------------------------------------------------------------------


def test_every_vector_type_becomes_what_the_page_says(stage: Stage) -> None:
    rows = PAGE.table("vectors")
    columns = ", ".join(f"c{number} {bare(row[0])}" for number, row in enumerate(rows))
    with psycopg.connect(stage.url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute(f"CREATE TABLE kinds (id int PRIMARY KEY, {columns})".encode())
    planned = _plan(stage, "kinds")
    found = {column["column"]: column["conversion"] for column in planned["columns"]}
    del found["id"]
    assert found == {f"c{number}": bare(row[1]) for number, row in enumerate(rows)}


def test_every_operator_class_gives_the_distance_that_the_page_says(stage: Stage) -> None:
    rows = PAGE.table("distances")
    columns = ", ".join(f"c{number} vector(3)" for number in range(len(rows)))
    with psycopg.connect(stage.url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute(f"CREATE TABLE kinds (id int PRIMARY KEY, {columns})".encode())
        for number, row in enumerate(rows):
            index = f"CREATE INDEX ON kinds USING hnsw (c{number} {bare(row[0])})"
            connection.execute(index.encode())
    planned = _plan(stage, "kinds")
    found = {vector["name"]: vector["distance"] for vector in planned["collection"]["vectors"]}
    assert found == {f"c{number}": bare(row[1]) for number, row in enumerate(rows)}
    assert planned["warnings"] == []


def _plan(stage: Stage, table: str) -> dict[str, Any]:
    arguments = ("--pg.url", stage.url, "--pg.table", table, "--qdrant.url", stage.qdrant.url)
    return bridge("plan", *arguments, "--json").require().table
