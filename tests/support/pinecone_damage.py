"""Points of a copied index made wrong, one field at a time, by the stock libraries."""

from __future__ import annotations

from typing import Any

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from tests.support.comparison import point_id
from tests.support.pinecone_runs import Job
from tests.support.places import EdgePlace, ServerPlace

ADDED = 10_000_000


def damage(job: Job, key: tuple[str, ...], kind: str, other: tuple[str, ...] = ()) -> None:
    """`lost`, `added`, or a change of the point of this record; `other`: whose vector it gets."""
    if isinstance(job.place, EdgePlace):
        _damage_edge(job.place, job.name, key, kind, other)
    else:
        assert isinstance(job.place, ServerPlace)
        _damage_server(job.place, job.name, key, kind, other)


def _damage_server(
    place: ServerPlace, name: str, key: tuple[str, ...], kind: str, other: tuple[str, ...]
) -> None:
    identity = point_id(key)
    if kind == "lost":
        place.client.delete(name, models.PointIdsList(points=[identity]), wait=True)
        return
    (record,) = place.client.retrieve(name, [identity], with_vectors=True)
    payload, vector = dict(record.payload or {}), record.vector
    if other:
        (second,) = place.client.retrieve(name, [point_id(other)], with_vectors=True)
        vector = second.vector
    payload, made = _mutated(kind, payload, vector)
    wanted = ADDED if kind == "added" else identity
    point = models.PointStruct(id=wanted, vector=made, payload=payload)
    place.client.upsert(name, [point], wait=True)


def _damage_edge(
    place: EdgePlace, name: str, key: tuple[str, ...], kind: str, other: tuple[str, ...]
) -> None:
    shard = place._open(name)
    identity = point_id(key)
    try:
        if kind == "lost":
            shard.update(edge.UpdateOperation.delete_points([identity]))
            return
        (record,) = shard.retrieve([identity], True, True)
        payload, vector = dict(record.payload or {}), record.vector
        if other:
            vector = shard.retrieve([point_id(other)], True, True)[0].vector
        payload, made = _mutated(kind, payload, vector)
        wanted = ADDED if kind == "added" else identity
        shard.update(edge.UpdateOperation.upsert_points([edge.Point(wanted, made, payload)]))
    finally:
        shard.flush()
        shard.close()


def _mutated(kind: str, payload: dict[str, Any], vector: Any) -> tuple[dict[str, Any], Any]:
    if kind == "number to string":
        payload["n"] = str(payload["n"])
    elif kind == "integer to float":
        payload["n"] = float(payload["n"])
    elif kind == "field omitted":
        del payload["title"]
    elif kind == "null added":
        payload["note"] = None
    elif kind == "component changed":
        changed = np.array(vector, dtype=np.float32)
        changed[3] += 1e-4
        vector = changed.tolist()
    elif kind == "components swapped":
        first, second, *rest = vector
        vector = [second, first, *rest]
    elif kind == "stale":
        payload["title"] = "as it was before"
    return payload, vector


FIELDS = {
    "number to string": "payload n", "integer to float": "payload n",
    "field omitted": "payload title", "null added": "payload note",
    "component changed": "the unnamed vector", "components swapped": "the unnamed vector",
    "vectors swapped": "the unnamed vector", "stale": "payload title",
}  # fmt: skip
"""Each change, and the field that a comparison names for it."""
