"""The Pinecone backfill as tests run it: a stand-in index, a target, the command between them.

The oracle is what the test put into the index, by the rules of design.md sections 3 and 4, written
again here: nothing of the mapping is used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from unittest import mock

import numpy as np
import orjson

from backfill import indexing, pinecone
from tests.support.command import Background, Outcome, Running, bridge
from tests.support.comparison import SparseVector, StoredPoint, point_id
from tests.support.pinecone_index import Index
from tests.support.pinecone_server import KEY, PineconeServer
from tests.support.places import EdgePlace, ServerPlace

KILLED: Final = -9
EXACT: Final = 2**53
_SOON_SECONDS: Final = 0.01


@dataclass(slots=True, kw_only=True)
class Job:
    """One copy: of this index, to this place."""

    index: Index
    server: PineconeServer
    place: ServerPlace | EdgePlace
    name: str
    more: tuple[str, ...] = ()
    expected: dict[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> tuple[str, ...]:
        """The command line. No limits: tests do not wait for them."""
        return (
            "backfill", "pinecone", "--pinecone.index-name", self.index.name,
            "--pinecone.service-host", self.server.url, "--pinecone.api-key", KEY,
            "--pinecone.list-per-second", "0", "--pinecone.fetch-per-second", "0",
            "--qdrant.url", self.place.url, "--qdrant.collection", self.name, "--json", *self.more,
        )  # fmt: skip

    def run(self, *more: str) -> Outcome:
        """In this process."""
        return bridge(*self.arguments, *more)

    def background(self, *more: str) -> Background:
        """In this process, in a thread."""
        return Background(*self.arguments, *more)

    def start(self, *more: str, failpoints: str = "") -> Running:
        """As a process."""
        return Running(*self.arguments, *more, failpoints=failpoints)

    def points(self, collection: str | None = None) -> Mapping[int | str, StoredPoint]:
        """What arrived."""
        return self.place.points(collection or self.name)

    def require_equal(self, **rules: Any) -> None:
        """The collection is the index."""
        found = differences(self.index, self.points(), **rules)
        assert found == [], found[:10]


def differences(
    index: Index,
    stored: Mapping[int | str, StoredPoint],
    *,
    namespaces: Sequence[str] | None = None,
    joint: bool | None = None,
    id_field: str = "__id__",
    float_fields: Sequence[str] = (),
    keep_floats: bool = False,
    without: Sequence[str] = (),
    sparse_name: str = "sparse_vector",
) -> list[str]:
    """Every deviation of the points from the records; `without`: ids that must be missing."""
    names = list(index.namespaces) if namespaces is None else list(namespaces)
    together = len(names) > 1 if joint is None else joint
    left = dict(stored)
    lines: list[str] = []
    for name in names:
        for identity, body in index.namespaces[name].records.items():
            key = (name, identity) if together else (identity,)
            point = left.pop(point_id(key), None)
            if identity in without:
                lines += [f"{key}: there, though set aside"] if point is not None else []
                continue
            if point is None:
                lines.append(f"{key}: missing")
                continue
            record = orjson.loads(body)
            payload = {
                field_name: _value(field_name, value, float_fields, keep_floats)
                for field_name, value in (record.get("metadata") or {}).items()
            }
            payload[id_field] = identity
            if together:
                payload["namespace"] = name
            lines += _payload_lines(key, payload, point.payload)
            lines += _vector_lines(key, index, record, point, sparse_name)
    return lines + [f"point {identity}: extra" for identity in left]


def _value(name: str, value: Any, float_fields: Sequence[str], keep_floats: bool) -> Any:
    if isinstance(value, float) and not keep_floats and name not in float_fields:
        return int(value) if value.is_integer() and abs(value) <= EXACT else value
    return value


def _payload_lines(
    key: Sequence[str], wanted: Mapping[str, Any], found: Mapping[str, Any]
) -> list[str]:
    lines = []
    for name in wanted.keys() | found.keys():
        mine, theirs = wanted.get(name, "absent"), found.get(name, "absent")
        same = type(mine) is type(theirs) and (
            abs(mine - theirs) <= 4 * np.spacing(abs(mine))
            if isinstance(mine, float)
            else mine == theirs
        )
        if not same:
            lines.append(f"{key} {name!r}: {json.dumps(theirs)[:60]}, not {json.dumps(mine)[:60]}")
    return lines


def _vector_lines(
    key: Sequence[str],
    index: Index,
    record: Mapping[str, Any],
    point: StoredPoint,
    sparse_name: str,
) -> list[str]:
    lines = []
    wanted: dict[str, Any] = {}
    if record.get("values"):
        wanted[""] = np.array(record["values"], dtype=np.float32)
    if record.get("sparseValues") and record["sparseValues"]["indices"]:
        sparse = record["sparseValues"]
        wanted[sparse_name] = {
            index_: np.float32(value)
            for index_, value in zip(sparse["indices"], sparse["values"], strict=True)
        }
    if wanted.keys() != point.vectors.keys():
        return [f"{key}: vectors {sorted(point.vectors)}, not {sorted(wanted)}"]
    for name, mine in wanted.items():
        theirs = point.vectors[name]
        if isinstance(theirs, SparseVector):
            same = mine == {k: np.float32(v) for k, v in theirs.values.items()}
        elif index.metric == "cosine":
            length = float(np.linalg.norm(mine))
            same = bool(np.allclose(mine / length if length else mine, theirs, atol=1e-6))
        else:
            same = bool(np.array_equal(mine, theirs))
        if not same:
            lines.append(f"{key}: vector {name!r} differs")
    return lines


def fill(index: Index, count: int, *, namespace: str = "", seed: int = 1) -> None:
    """Ordinary records `item-0`, `item-1`, ..."""
    numbers = np.random.default_rng(seed).standard_normal((count, index.dimension))
    for number in range(count):
        metadata = {
            "title": f"Item {number}",
            "n": number,
            "price": number + 0.5,
            "ok": number % 2 == 0,
        }
        index.put(f"item-{number}", numbers[number], namespace=namespace, metadata=metadata)


@contextmanager
def standing(
    index: Index, place: ServerPlace | EdgePlace, *more: str, **options: Any
) -> Iterator[Job]:
    """The stand-in with one index, and a job that copies it.

    Commands of this process look sooner than a real server's optimizer and real stats would need.
    """
    with (
        mock.patch.object(indexing, "POLL_SECONDS", _SOON_SECONDS),
        mock.patch.object(pinecone, "_SETTLE_SECONDS", _SOON_SECONDS),
        PineconeServer(index, **options) as server,
    ):
        yield Job(index=index, server=server, place=place, name=place.name("pc"), more=more)
