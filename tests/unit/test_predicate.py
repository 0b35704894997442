"""The configuration's `where`: what it accepts, and what it keeps."""

from __future__ import annotations

import uuid

import pytest
from psycopg import sql

from bridge.errors import UsageError
from bridge.postgres.predicate import Wanted, matches, row_filter, where_sql
from bridge.schema import Column, PgType, Table

_TYPES = {
    "flag": ("pg_catalog", "bool", "base"),
    "small": ("pg_catalog", "int2", "base"),
    "big": ("pg_catalog", "int8", "base"),
    "title": ("pg_catalog", "text", "base"),
    "code": ("pg_catalog", "bpchar", "base"),
    "tag": ("ext", "citext", "base"),
    "ref": ("pg_catalog", "uuid", "base"),
    "mood": ("app", 'Mo"od', "enum"),
    "data": ("pg_catalog", "jsonb", "base"),
    "amount": ("pg_catalog", "numeric", "base"),
    "list": ("pg_catalog", "_text", "array"),
    "odd %s": ("pg_catalog", "text", "base"),
}
TABLE = Table(
    oid=1,
    schema="public",
    name="t",
    kind="table",
    columns=tuple(
        Column(
            name=column,
            number=number,
            declared=name,
            type=PgType(oid=number, schema=schema, name=name, kind=kind),  # type: ignore[arg-type]
        )
        for number, (column, (schema, name, kind)) in enumerate(_TYPES.items(), start=1)
    ),
)
UUID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"


@pytest.mark.parametrize(
    ("where", "kept", "dropped"),
    [
        ({"flag": True}, [True], [False, None]),
        ({"flag": False}, [False], [True, None]),
        ({"flag": None}, [None], [True, False]),
        ({"flag": "not null"}, [True, False], [None]),
        ({"small": 0}, [0], [1, None]),
        ({"small": [1, 2, None]}, [1, 2, None], [0]),
        ({"big": -(2**63)}, [-(2**63)], [0]),
        ({"title": "en"}, ["en"], ["EN", "en ", "", None]),
        ({"title": ["en", "de"]}, ["en", "de"], ["fr", None]),
        ({"title": "NOT NULL"}, ["", "x"], [None]),
        ({"title": ["not null"]}, ["not null"], ["x", None]),
        ({"code": "ab"}, ["ab", "ab   "], [" ab", "ab\t", None]),
        ({"tag": "En"}, ["en", "EN"], ["én", None]),
        ({"ref": UUID.upper()}, [UUID, uuid.UUID(UUID)], [str(uuid.UUID(int=0)), None]),
        ({"ref": "{" + UUID.replace("-", "") + "}"}, [UUID], [None]),
        ({"mood": ["glad"]}, ["glad"], ["Glad", None]),
        ({"data": None}, [None], [{}, []]),
        ({"data": "not null"}, [{}, []], [None]),
    ],
)
def test_rows_are_kept_as_sql_would(
    where: dict[str, Wanted], kept: list[object], dropped: list[object]
) -> None:
    (column,) = where
    assert [matches(TABLE, where, {column: value}) for value in kept] == [True] * len(kept)
    assert [matches(TABLE, where, {column: value}) for value in dropped] == [False] * len(dropped)


def test_all_columns_must_agree() -> None:
    where: dict[str, Wanted] = {"flag": None, "title": ["a", "b"]}
    assert matches(TABLE, where, {"flag": None, "title": "a", "other": 1})
    assert not matches(TABLE, where, {"flag": True, "title": "a"})
    assert not matches(TABLE, where, {"flag": None, "title": "c"})


def test_no_where_keeps_every_row() -> None:
    assert where_sql(TABLE, {}) is None
    assert row_filter(TABLE, {}) is None
    assert matches(TABLE, {}, {})


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ({"titel": "x"}, "titel"),
        ({"flag": 1}, "flag"),
        ({"flag": "true"}, "flag"),
        ({"small": True}, "small"),
        ({"small": 32768}, "range"),
        ({"small": "1"}, "small"),
        ({"big": 2**63}, "range"),
        ({"title": 5}, "title"),
        ({"title": []}, "empty"),
        ({"title": ["a", 5]}, "title"),
        ({"title": "a\0b"}, r"U\+0000"),
        ({"title": {"a": "b"}}, "title"),
        ({"tag": "é"}, "ASCII"),
        ({"ref": "not-a-uuid"}, "uuid"),
        ({"data": "x"}, "data"),
        ({"amount": 5}, "amount"),
        ({"list": ["x"]}, "list"),
        ({"small": 1.5}, "small"),
    ],
)
def test_an_unsuitable_literal_is_refused_by_name(where: dict[str, Wanted], told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        where_sql(TABLE, where)
    assert caught.value.table == "public.t"
    assert caught.value.hint


def test_a_value_that_cannot_be_judged_is_an_error() -> None:
    with pytest.raises(KeyError):
        matches(TABLE, {"title": "a"}, {"flag": True})
    for value in (object(), 1, b"a"):
        with pytest.raises(TypeError):
            matches(TABLE, {"title": "a"}, {"title": value})


def test_sql_quotes_names_and_literals() -> None:
    where: dict[str, Wanted] = {"odd %s": "it's 100%", "mood": "x", "small": [2, 1, None]}
    found = where_sql(TABLE, where)
    assert isinstance(found, sql.Composed)
    assert found.as_string() == (
        "(\"odd %s\"::pg_catalog.text COLLATE pg_catalog.\"C\" IN ('it''s 100%'::pg_catalog.text))"
        ' AND ("mood"::"app"."Mo""od" IN (\'x\'::"app"."Mo""od")) AND ("small" IN (1, 2)'
        ' OR "small" IS NULL)'
    )
