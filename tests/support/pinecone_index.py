"""An index as the Pinecone stand-in keeps it: records by namespace, listed in pages.

As the real one is (facts/pinecone.md): numbers in metadata are float64 whatever they were, ids are
ASCII of 1 to 512 characters, page tokens are opaque and expire, a page may be short or empty and still
have a next one, an id that is not there is simply absent from a fetch.
"""

from __future__ import annotations

import base64
import bisect
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import orjson

Kind = Literal["dense", "sparse", "integrated", "documents", "pod"]
DEFAULT: Final = "__default__"
PAGE: Final = 100


class ExpiredToken(Exception):
    """The page token is not one of this index any more."""


@dataclass(slots=True)
class Namespace:
    """Records as they are sent: id -> the JSON of the record. `order`: the ids, sorted."""

    records: dict[str, bytes] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)


class Index:
    """One index. Safe for threads; tests change it while it is read.

    `short_pages`: a seed; pages then have anything from no id to a full page. `default_name`: what
    stats call the default namespace. `shows_sparse`: whether describe tells of sparse values.
    """

    def __init__(
        self,
        name: str = "products",
        *,
        kind: Kind = "dense",
        dimension: int = 8,
        metric: str = "cosine",
        short_pages: int | None = None,
        default_name: str = DEFAULT,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.dimension = dimension
        self.metric = metric
        self.default_name = default_name
        self.fields = fields
        self.namespaces: dict[str, Namespace] = {}
        self.count_error = 0
        self._lock = threading.RLock()
        self._generation = 0
        self._pages = None if short_pages is None else random.Random(short_pages)

    # --- for tests ---------------------------------------------------------------------------------

    def put(
        self,
        identity: str,
        values: Sequence[float] | np.ndarray[Any, Any] | None = None,
        *,
        namespace: str = "",
        sparse: Mapping[int, float] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Upsert a record. ValueError for an id that Pinecone refuses."""
        record: dict[str, Any] = {"id": identity}
        if values is not None:
            record["values"] = np.asarray(values, dtype=np.float32)
        if sparse is not None:
            record["sparseValues"] = {
                "indices": list(sparse),
                "values": np.array(list(sparse.values()), dtype=np.float32),
            }
        if metadata is not None:
            record["metadata"] = {key: _as_stored(value) for key, value in metadata.items()}
        self.put_raw(identity, orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY), namespace)

    def put_document(self, identity: str, document: Mapping[str, Any], namespace: str = "") -> None:
        """Upsert a document."""
        stored = {key: _as_stored(value) for key, value in document.items()}
        body = orjson.dumps({"_id": identity, **stored}, option=orjson.OPT_SERIALIZE_NUMPY)
        self.put_raw(identity, body, namespace)

    def put_raw(self, identity: str, record: bytes, namespace: str = "") -> None:
        """Keep a record whose JSON is ready."""
        if not (identity.isascii() and 1 <= len(identity) <= 512 and "\0" not in identity):
            raise ValueError("Pinecone refuses this id: ASCII, 1 to 512 characters")
        with self._lock:
            kept = self.namespaces.setdefault(namespace, Namespace())
            if identity not in kept.records:
                bisect.insort(kept.order, identity)
            kept.records[identity] = record

    def delete(self, identity: str, namespace: str = "") -> None:
        """Delete a record; a missing one is no error."""
        with self._lock:
            kept = self.namespaces[namespace]
            if kept.records.pop(identity, None) is not None:
                kept.order.remove(identity)

    def expire_tokens(self) -> None:
        """From now on nobody can go on with a token that was given before."""
        with self._lock:
            self._generation += 1

    def __len__(self) -> int:
        return sum(len(kept.records) for kept in self.namespaces.values())

    # --- for the server ----------------------------------------------------------------------------

    def describe(self, host: str) -> dict[str, Any]:
        """What the control plane says (2026-07)."""
        pod = {
            "deployment_type": "pod", "environment": "us-east1-gcp", "pod_type": "p1.x1",
            "replicas": 1, "shards": 1,
        }  # fmt: skip
        managed = {"deployment_type": "managed", "cloud": "aws", "region": "us-east-1"}
        return {
            "name": self.name,
            "host": host,
            "status": {"ready": True, "state": "Ready"},
            "schema": {"fields": self._schema()},
            "deployment": pod if self.kind == "pod" else managed,
            "deletion_protection": "disabled",
            "tags": None,
        }

    def _schema(self) -> dict[str, Any]:
        if self.fields is not None:
            return dict(self.fields)
        if self.kind == "sparse":
            return {"_sparse_values": {"type": "sparse_vector"}}
        if self.kind == "integrated":
            model = {"model": "multilingual-e5-large", "metric": self.metric}
            return {"chunk_text": {"type": "semantic_text", **model}}
        dense = {"type": "dense_vector", "dimension": self.dimension, "metric": self.metric}
        return {"_values": dense}

    def stats(self) -> dict[str, Any]:
        """describe_index_stats."""
        with self._lock:
            counts = {
                name or self.default_name: {"vectorCount": len(kept.records) + self.count_error}
                for name, kept in self.namespaces.items()
            }
        sparse = self.kind == "sparse"
        shape = {} if sparse else {"dimension": self.dimension}
        return {
            "namespaces": counts,
            **shape,
            "indexFullness": 0.0,
            "totalVectorCount": sum(count["vectorCount"] for count in counts.values()),
            "metric": "dotproduct" if sparse else self.metric,
            "vectorType": "sparse" if sparse else "dense",
        }

    def list_namespaces(self, limit: int, token: str | None) -> dict[str, Any]:
        """A page of namespaces; counts arrive as strings."""
        with self._lock:
            names = sorted(self.namespaces)
            start = 0 if token is None else int(self._open(token, "namespaces"))
            page = names[start : start + limit]
            answer: dict[str, Any] = {
                "namespaces": [
                    {
                        "name": name or DEFAULT,
                        "record_count": str(len(self.namespaces[name].records)),
                    }
                    for name in page
                ],
                "total_count": len(names),
            }
            if start + limit < len(names):
                answer["pagination"] = {"next": self._seal("namespaces", str(start + limit))}
        return answer

    def page(self, namespace: str, limit: int, token: str | None) -> tuple[list[str], str | None]:
        """(ids, token of the next page)."""
        namespace = "" if namespace == DEFAULT else namespace
        with self._lock:
            kept = self.namespaces.get(namespace, Namespace())
            after = None if token is None else self._open(token, namespace)
            start = 0 if after is None else bisect.bisect_right(kept.order, after)
            if self._pages is not None:
                limit = self._pages.choice((0, 1, limit // 3, limit))
            ids = kept.order[start : start + limit]
            if start + limit >= len(kept.order):
                return ids, None
            return ids, self._seal(namespace, ids[-1] if ids else after or "")

    def found(self, namespace: str, ids: Sequence[str]) -> list[tuple[str, bytes]]:
        """Those of the records that there are."""
        namespace = "" if namespace == DEFAULT else namespace
        with self._lock:
            records = self.namespaces.get(namespace, Namespace()).records
            return [(one, records[one]) for one in ids if one in records]

    def _seal(self, namespace: str, after: str) -> str:
        sealed = orjson.dumps([self._generation, random.random(), namespace, after])
        return base64.urlsafe_b64encode(sealed).decode()

    def _open(self, token: str, namespace: str) -> str:
        try:
            generation, _salt, where, after = orjson.loads(base64.urlsafe_b64decode(token))
        except ValueError:
            raise ExpiredToken from None
        if generation != self._generation or where != namespace:
            raise ExpiredToken
        return str(after)


def _as_stored(value: Any) -> Any:
    """Numbers are float64 and nothing else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value
