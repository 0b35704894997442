"""Each way in which a copy can be wrong is found, every time, and named; a right copy is called equal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qdrant_edge as edge
from qdrant_client import models

from tests.support.command import Outcome, bridge, config_file
from tests.support.databases import Database
from tests.support.places import PLACES, EdgePlace, Place, ServerPlace, open_place
from verify.report import COUNTS, EXAMPLES_A_KIND

DIMENSION = 8
ROWS = 600
DDL = f"""
CREATE TABLE docs (id int PRIMARY KEY, title text, price float8, meta jsonb, note text,
  v vector({DIMENSION}), h halfvec({DIMENSION}), s sparsevec(50), b bit(16), m vector({DIMENSION})[])
"""
FILL = f"""
INSERT INTO docs SELECT i, 'row ' || i, i / 7.0,
  jsonb_build_object('n', i, 'tags', jsonb_build_array('a', i)),
  CASE WHEN i % 3 = 0 THEN NULL ELSE 'note' END,
  (SELECT array_agg(sin(i * 31 + j))::real[]::vector FROM generate_series(1, {DIMENSION}) j),
  (SELECT array_agg(cos(i * 17 + j))::real[]::halfvec FROM generate_series(1, {DIMENSION}) j),
  ('{{' || i % 40 + 1 || ':1.5,' || i % 40 + 9 || ':2.5}}/50')::sparsevec,
  lpad((i % 2048)::bit(16)::text, 16, '0')::bit(16),
  ARRAY[(SELECT array_agg(sin(i + j))::real[]::vector FROM generate_series(1, {DIMENSION}) j),
        (SELECT array_agg(cos(i + j))::real[]::vector FROM generate_series(1, {DIMENSION}) j)]
FROM generate_series(1, {ROWS}) i
"""


@dataclass(frozen=True, kw_only=True)
class Copied:
    """`docs`, copied; `verify` compares it."""

    database: Database
    place: Place
    name: str
    config: str

    def verify(self, *more: str) -> Outcome:
        """The command, told to print JSON."""
        return bridge("verify", "--config", self.config, "--json", *more)

    def found(self, *more: str) -> dict[str, Any]:
        """What a comparison that does not come out equal says of the table."""
        outcome = self.verify(*more).require(1)
        assert outcome.report["equal"] is False
        return outcome.table


@pytest.fixture(params=PLACES)
def copied(request: pytest.FixtureRequest, tmp_path: Path, database: Database) -> Iterator[Copied]:
    with open_place(request.param, tmp_path) as place:
        yield copy(database, place, tmp_path)


def copy(database: Database, place: Place, directory: Path) -> Copied:
    database.execute(DDL)
    database.execute(FILL)
    return backfilled(database, place, directory)


def backfilled(database: Database, place: Place, directory: Path, **settings: Any) -> Copied:
    name = place.name("v").lower()
    config = config_file(
        directory,
        {
            "pipeline": name,
            "postgres": {"url": database.url},
            "qdrant": {"url": place.url},
            "tables": {"public.docs": {"collection": name, **settings}},
        },
    )
    bridge("backfill", "pgvector", "--config", config).require()
    return Copied(database=database, place=place, name=name, config=config)


# --- damage, by the stock libraries ---------------------------------------------------------------

ADDED = 10_000


def damage_server(place: ServerPlace, name: str, key: int, kind: str) -> None:
    records = place.client.retrieve(name, [key, key + 1], with_vectors=True)
    record, other = sorted(records, key=lambda one: int(one.id))
    assert isinstance(record.vector, dict) and record.payload is not None
    vectors: dict[str, Any] = dict(record.vector)
    payload = dict(record.payload)
    mutate(kind, payload, vectors, other.vector)
    if kind == "lost":
        place.client.delete(name, models.PointIdsList(points=[key]), wait=True)
        return
    identity = ADDED if kind == "added" else key
    point = models.PointStruct(id=identity, vector=vectors, payload=payload)
    place.client.upsert(name, [point], wait=True)


def damage_edge(place: EdgePlace, name: str, key: int, kind: str) -> None:
    shard = place._open(name)
    record, other = sorted(shard.retrieve([key, key + 1], True, True), key=lambda one: int(one.id))
    assert isinstance(record.vector, dict)
    vectors: dict[str, Any] = dict(record.vector)
    payload = dict(record.payload or {})
    mutate(kind, payload, vectors, other.vector)
    if kind == "lost":
        shard.update(edge.UpdateOperation.delete_points([key]))
    else:
        point = edge.Point(ADDED if kind == "added" else key, vectors, payload)
        shard.update(edge.UpdateOperation.upsert_points([point]))
    shard.flush()
    shard.close()


def damage(copied: Copied, key: int, kind: str) -> None:
    if isinstance(copied.place, EdgePlace):
        damage_edge(copied.place, copied.name, key, kind)
    else:
        assert isinstance(copied.place, ServerPlace)
        damage_server(copied.place, copied.name, key, kind)


def mutate(kind: str, payload: dict[str, Any], vectors: dict[str, Any], other: Any) -> None:
    """One field made wrong."""
    if kind == "number to string":
        payload["price"] = str(payload["price"])
    elif kind == "integer to float":
        payload["meta"] = {**payload["meta"], "n": float(payload["meta"]["n"])}
    elif kind == "null omitted":
        assert payload.pop("note", "nothing") is None
    elif kind == "component changed":
        changed = np.array(vectors["v"], dtype=np.float32)
        changed[3] += 1e-4
        vectors["v"] = changed.tolist()
    elif kind == "dot component changed":
        # Of float32 values up to 30, this is some units in the last place.
        vectors["w"] = [vectors["w"][0] + 1e-3, *vectors["w"][1:]]
    elif kind == "components swapped":
        first, second, *rest = vectors["v"]
        vectors["v"] = [second, first, *rest]
    elif kind == "vector added":
        vectors["w"] = vectors["v"]
    elif kind == "vectors swapped":
        vectors["v"] = other["v"]
    elif kind == "sparse swapped":
        vectors["s"] = other["s"]
    elif kind == "half swapped":
        vectors["h"] = other["h"]
    elif kind == "bit flipped":
        vectors["b"] = [1 - vectors["b"][0], *vectors["b"][1:]]
    elif kind == "row of a multivector lost":
        vectors["m"] = vectors["m"][:1]
    elif kind == "vector lost":
        del vectors["h" if "h" in vectors else "w"]
    elif kind == "stale version":
        payload["title"] = "as it was before"
    elif kind == "field added":
        payload["more"] = 1


FIELDS = {
    "number to string": "payload price", "integer to float": "payload meta.n",
    "null omitted": "payload note", "component changed": "vector v", "vectors swapped": "vector v",
    "sparse swapped": "vector s", "half swapped": "vector h", "bit flipped": "vector b",
    "row of a multivector lost": "vector m", "vector lost": "vector h",
    "stale version": "payload title", "field added": "payload more",
}  # fmt: skip
# Rows whose note is NULL, one for each kind.
ROW_OF = {kind: 30 + 3 * number for number, kind in enumerate(FIELDS)}


def test_a_right_copy_is_equal_and_every_damage_is_found(copied: Copied) -> None:
    outcome = copied.verify().require(0)
    assert outcome.report["equal"] is True
    assert (outcome.table["source"], outcome.table["target"]) == (ROWS, ROWS)
    for kind, key in ROW_OF.items():
        damage(copied, key, kind)
    damage(copied, 7, "lost")
    damage(copied, 8, "added")
    found = copied.found()
    counts = {name: found[name] for name in COUNTS}
    assert counts == {**dict.fromkeys(COUNTS, 0), "missing": 1, "extra": 1, "altered": len(FIELDS)}
    told = {example["key"]: example for example in found["examples"]}
    assert told["7"]["kind"] == "missing"
    assert (told[None]["kind"], told[None]["id"]) == ("extra", ADDED)
    shown = 0
    for kind, key in ROW_OF.items():
        if str(key) not in told:
            continue  # of one kind, ten are shown
        shown += 1
        (field,) = told[str(key)]["fields"]
        assert field["field"] == FIELDS[kind], kind
        assert field.keys() == {"field", "what"}  # values only if they are asked for
    assert shown == EXAMPLES_A_KIND


def test_values_are_shown_if_asked_for(copied: Copied) -> None:
    damage(copied, 30, "stale version")
    (example,) = copied.found("--show-values")["examples"]
    (field,) = example["fields"]
    assert (field["source"], field["target"]) == ("row 30", "as it was before")
    told = bridge("verify", "--config", copied.config).require(1)
    assert "payload title: another string" in told.out
    assert "as it was before" not in told.out + told.err


# --- vectors that are compared by their scores ----------------------------------------------------

LONG = 256


@pytest.fixture(params=PLACES)
def long(request: pytest.FixtureRequest, tmp_path: Path, database: Database) -> Iterator[Copied]:
    """Vectors of 256 dimensions, under cosine and dot product; some are NULL."""
    database.execute(
        f"CREATE TABLE docs (id int PRIMARY KEY, note text, v vector({LONG}), w vector({LONG}))"
    )
    component = "(SELECT array_agg({} * sin(i * 12.9898 + j * 78.233 + i * j))::real[]::vector"
    component += f" FROM generate_series(1, {LONG}) j)"
    database.execute(
        f"INSERT INTO docs SELECT i, NULL, {component.format(1)},"
        f" CASE WHEN i % 4 > 0 THEN {component.format(30)} END FROM generate_series(1, 200) i"
    )
    with open_place(request.param, tmp_path) as place:
        yield backfilled(database, place, tmp_path, vectors={"w": {"distance": "dot"}})


LONG_KINDS = ("component changed", "dot component changed", "components swapped", "vectors swapped",
              "vector lost", "vector added")  # fmt: skip


@pytest.mark.parametrize("how", [(), ("--exact-vectors",)], ids=["scores", "components"])
def test_every_damage_to_a_long_vector_is_found(long: Copied, how: tuple[str, ...]) -> None:
    outcome = long.verify(*how).require(0)
    assert outcome.table["vectors"] == ("components" if how else "scores")
    for number, kind in enumerate(LONG_KINDS):
        damage(long, 20 + 4 * number + (kind != "vector added"), kind)
    found = long.found(*how)
    assert {name: found[name] for name in COUNTS if found[name]} == {"altered": len(LONG_KINDS)}
    fields = {int(one["key"]): one["fields"][0]["field"] for one in found["examples"]}
    assert fields == {
        20 + 4 * number + (kind != "vector added"): "vector v"
        if kind in ("component changed", "components swapped", "vectors swapped")
        else "vector w"
        for number, kind in enumerate(LONG_KINDS)
    }
