"""A user's shell: the command in a known environment, and how much of a screen its errors take;
and a table to use it on."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, Final

import pytest

from tests.support.command import Outcome, bridge

COLUMNS: Final = 100
LINES: Final = 24

DOCS: Final = """
CREATE TABLE docs (
  id bigint PRIMARY KEY, title text NOT NULL, price numeric, rating numeric(4,2), seen timestamptz,
  tags text[], shape point, twice int GENERATED ALWAYS AS (id * 2) STORED,
  embedding vector(3), half halfvec(2), terms sparsevec(9), bits bit(8), many vector(3)[]);
CREATE INDEX ON docs (title);
CREATE INDEX ON docs USING hnsw (embedding vector_l2_ops) WITH (m = 8, ef_construction = 40);
INSERT INTO docs VALUES (1, 'one', 1.5, 2, '2024-05-06T07:08:09Z', '{a}', '(1,2)', DEFAULT,
  '[1,2,3]', '[1,2]', '{1:1}/9', '10101010', ARRAY['[1,2,3]', '[4,5,6]']::vector[]);
"""
"""A table of many types, with one row."""

# What the shell that started the tests may hold, and no test may depend on.
_FOREIGN: Final = ("QDRANT_BRIDGE_", "PG", "JOB_COMPLETION_INDEX", "BRIDGE_FAILPOINTS")


def command(*arguments: str, environ: Mapping[str, str] | None = None) -> Outcome:
    """Run `qdrant-bridge ARGUMENTS` in this process, with these variables and no other of ours."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
            patch.delenv(name)
        for name, value in {"COLUMNS": str(COLUMNS), **(environ or {})}.items():
            patch.setenv(name, value)
        return bridge(*arguments)


def screen_lines(text: str) -> int:
    """The lines that a text takes on a terminal of `COLUMNS` columns."""
    return sum(max(1, math.ceil(len(line) / COLUMNS)) for line in text.splitlines())


def ok(*arguments: str, **options: Any) -> Outcome:
    """Run it; it must succeed."""
    return command(*arguments, **options).require()


def report(*arguments: str, **options: Any) -> dict[str, Any]:
    """Run it with `--json`; what it prints."""
    outcome = ok(*arguments, "--json", **options)
    assert outcome.err == ""
    return outcome.report
