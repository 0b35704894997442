"""Vectors in text form against the server's own: both forms of one value must be the same bytes."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.vectors_text import vector_from_text
from tests.support.databases import BOTH_VERSIONS, Database

VALUES: list[tuple[Any, str, str]] = [
    ("vector", "vector", "'[1,2.5,-3]'"),
    ("vector", "vector", "'[1e-40,3.4028235e38,0.1,1e-45,-0]'"),
    ("vector", "vector", "(SELECT array_agg(sin(i) / 3)::vector FROM generate_series(1, 1536) i)"),
    ("halfvec", "halfvec", "'[1,0.1,65504,6e-8,-2.5]'"),
    ("halfvec", "halfvec", "(SELECT array_agg(cos(i))::halfvec FROM generate_series(1, 99) i)"),
    ("sparsevec", "sparsevec", "'{1:1.5,7:0.1,9:-3e-20}/9'"),
    ("sparsevec", "sparsevec", "'{}/5'"),
    ("bit", "bit(1)", "'1'"),
    ("bit", "bit(17)", "'10110011100011110'"),
    ("bit", "bit(64)", "repeat('10', 32)"),
]
ARRAYS: list[tuple[Any, str, str]] = [
    ("vector", "vector(2)[]", "ARRAY['[1,2]','[3,0.1]']"),
    ("halfvec", "halfvec(2)[]", "ARRAY['[1,2]','[3,0.1]']"),
    ("vector", "vector(2)[]", "'{}'"),
    ("vector", "vector(2)[]", "ARRAY['[1,2]',NULL]"),
]


@pytest.mark.parametrize("postgres_version", BOTH_VERSIONS, indirect=True)
@pytest.mark.parametrize(("kind", "declared", "value"), VALUES)
def test_text_becomes_the_bytes_that_the_server_would_have_sent(
    database: Database, kind: Any, declared: str, value: str
) -> None:
    with database.connect() as connection:
        query = f"SELECT ({value})::{declared}"
        text = connection.execute(f"SELECT format('%s', ({value})::{declared})").fetchone()
        cursor = connection.cursor(binary=True)
        cursor.execute(query)
        assert cursor.pgresult is not None and text is not None
        assert vector_from_text(kind, text[0]) == cursor.pgresult.get_value(0, 0)


@pytest.mark.parametrize(("kind", "declared", "value"), ARRAYS)
def test_arrays_of_vectors_have_the_elements_that_the_server_would_have_sent(
    database: Database, kind: Any, declared: str, value: str
) -> None:
    with database.connect() as connection:
        text = connection.execute(f"SELECT format('%s', ({value})::{declared})").fetchone()
        cursor = connection.cursor(binary=True)
        cursor.execute(f"SELECT ({value})::{declared}")
        assert cursor.pgresult is not None and text is not None
        expected = cursor.pgresult.get_value(0, 0)
        assert expected is not None
        found = vector_from_text(kind, text[0], multi=True)
    # The element type's OID, which depends on the database, is not looked at by anybody.
    assert found[:8] == expected[:8]
    assert found[12:] == expected[12:]
