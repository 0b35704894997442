"""Qdrant Edge, the engine inside this process, as a target: `edge:///directory`.

    directory/
      LOCK                      held by the one process that has it open (`edge_claim.py`)
      bridge.sock               on which that process serves the others (`edge_socket.py`)
      collections/<name>/       one Edge shard each; the name percent-encoded, a long one hashed
      collections/<name>.json   our spec of it, written before the shard is made

Edge has no collections, no background optimizer and reads vectors and distances back from nowhere but
its own files, hence the spec beside it. A crash between spec and shard leaves a spec without a
shard, which the next start completes.

Durable means: after `flush`. An update is in the shard's write-ahead log when it returns, which
survives the process; `flush` makes it survive the machine, and is called before anything is recorded
as done.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import qdrant_edge as edge
from google.protobuf.message import DecodeError

from bridge.collection_spec import CollectionSpec, IndexKind
from bridge.errors import BridgeError, Rejected, StopError, Unreachable, UsageError
from bridge.plan import Multi, Patch, Point, Sparse, Vector
from bridge.point_ids import PointId
from bridge.qdrant.edge_claim import DIRECTORY_HINT, claim
from bridge.qdrant.edge_space import disk_full, require_space, used_bytes
from bridge.qdrant.edge_specs import dump, load
from bridge.qdrant.edge_types import (
    edge_point,
    edge_vectors,
    equal_fields,
    overwrite,
    parameters,
    read_record,
    schema_type,
    schema_types,
)
from bridge.qdrant.grpc_messages import q
from bridge.qdrant.messages import floats, read_id, read_payload, read_vector
from bridge.qdrant.target import CollectionState, Hit, WriteMode

_BATCH_LIMIT = 1000  # points an operation: bounds the copy that Edge makes of it
_FILE_NAME_LIMIT = 200  # characters; file systems end at 255, and suffixes come behind


class EdgeTarget:
    """See `target.Target`. Safe for threads: the engine is called under one lock."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.RLock()
        self._shards: dict[str, edge.EdgeShard] = {}
        self._specs: dict[str, CollectionSpec] = {}
        self._unflushed: set[str] = set()
        try:
            (directory / "collections").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"cannot make the directory {directory}: {error.strerror}", hint=DIRECTORY_HINT
            ) from None
        self._claim = claim(directory)

    @property
    def label(self) -> str:
        return f"edge://{self._directory}"

    def check(self) -> str:
        return "edge"

    def collections(self) -> list[str]:
        specs = (self._directory / "collections").glob("*.json")
        return sorted(load(path.read_text()).name for path in specs)

    def collection(self, name: str) -> CollectionState | None:
        with self._lock:
            spec = self._spec(name)
            if spec is None:
                return None
            info = self._shard(name).info()
            return CollectionState(
                name=name,
                vectors=tuple(sorted(spec.vectors, key=lambda vector: vector.name)),
                payload_indexes=schema_types(info.payload_schema),
                points=info.points_count,
                indexed_vectors=info.indexed_vectors_count,
            )

    def create_collection(self, spec: CollectionSpec, *, replication_factor: int = 1) -> None:
        with self._lock:
            if self._spec(spec.name) is None:
                require_space(self._directory, self.label)
                _remove_tree(self._path(spec.name))  # what a crash in a deletion left
                _write_atomically(self._path(spec.name).with_suffix(".json"), dump(spec))
            self._shard(spec.name)
            for path, kind in spec.payload_indexes.items():
                self.create_payload_index(spec.name, path, kind)

    def create_payload_index(self, collection: str, path: str, kind: IndexKind) -> None:
        operation = edge.UpdateOperation.create_field_index(path, schema_type(kind))
        self._update(collection, operation)

    def delete_collection(self, name: str) -> None:
        with self._lock:
            shard = self._shards.pop(name, None)
            if shard is not None:
                shard.close()
            self._specs.pop(name, None)
            self._unflushed.discard(name)
            self._path(name).with_suffix(".json").unlink(missing_ok=True)
            _remove_tree(self._path(name))

    def set_indexing_threshold(self, collection: str, kilobytes: int) -> None:
        """Nothing to do: Edge indexes when `optimize` is called, and at no other time."""

    def optimize(self, collection: str) -> bool:
        with self._lock:
            shard = self._shard(collection)
            # It copies what it indexes before it lets go of the old.
            require_space(self._directory, self.label, used_bytes(self._path(collection)))
            self._run(shard.optimize)
        return True

    def upsert(
        self, collection: str, points: Sequence[Point], *, mode: WriteMode = "upsert"
    ) -> None:
        self._write(collection, [edge_point(point) for point in points], mode)

    def replace(
        self, collection: str, points: Sequence[Point], *, matching: Mapping[str, str]
    ) -> None:
        operation = edge.UpdateOperation.upsert_points(
            [edge_point(point) for point in points],
            condition=edge.Filter(must=equal_fields(matching)),
            update_mode=edge.UpdateMode.UpdateOnly,
        )
        self._update(collection, operation)

    def send(self, request: bytes) -> DoneUpsert:
        """Apply an Upsert that was made for a server: the workers of a backfill make no other."""
        try:
            message = q.UpsertPoints.FromString(request)
        except DecodeError as error:
            return DoneUpsert(Rejected(f"Qdrant Edge cannot read the request: {error}"))
        if message.HasField("update_filter"):
            return DoneUpsert(Rejected("Qdrant Edge takes conditions by `replace` only"))
        insert_only = message.update_mode == q.UpdateMode.InsertOnly
        points = [_point(point) for point in message.points]
        try:
            mode: WriteMode = "insert_only" if insert_only else "upsert"
            self.upsert(message.collection_name, points, mode=mode)
        except BridgeError as error:
            return DoneUpsert(error)
        return DoneUpsert(None)

    def send_fields(self, request: bytes) -> DoneUpsert:
        """Apply an UpdateBatch that was made for a server."""
        try:
            batch = q.UpdateBatchPoints.FromString(request)
            with self._lock:
                for operation in batch.operations:
                    self._apply_fields(batch.collection_name, operation)
        except DecodeError as error:
            return DoneUpsert(Rejected(f"Qdrant Edge cannot read the request: {error}"))
        except BridgeError as error:
            return DoneUpsert(error)
        return DoneUpsert(None)

    def _apply_fields(self, collection: str, operation: Any) -> None:
        kind = operation.WhichOneof("operation")
        if kind == "upsert":
            points = [_point(point) for point in operation.upsert.points]
            self.upsert(collection, points, mode="insert_only")
            return
        body = getattr(operation, kind)
        ids: list[Any] = [read_id(one) for one in body.points_selector.points.ids]
        if kind == "set_payload":
            update = edge.UpdateOperation.set_payload(
                ids, read_payload(body.payload), body.key or None
            )
        else:
            update = edge.UpdateOperation.delete_payload(ids, list(body.keys))
        self._update(collection, update)

    def patch(self, collection: str, patches: Sequence[Patch]) -> None:
        with self._lock:
            for patch in patches:
                self._update(collection, overwrite(patch))
            changed = [edge_vectors(patch) for patch in patches if patch.vectors]
            if changed:
                self._update(collection, edge.UpdateOperation.update_vectors(changed))
            for patch in patches:
                if patch.cleared:
                    names = sorted(patch.cleared)
                    operation = edge.UpdateOperation.delete_vectors([patch.id], names)
                    self._update(collection, operation)

    def clear(self, collection: str) -> None:
        # A filter without conditions is fulfilled by every point.
        self._update(collection, edge.UpdateOperation.delete_points_by_filter(edge.Filter()))

    def existing(self, collection: str, ids: Sequence[PointId]) -> set[PointId]:
        with self._lock:
            shard = self._shard(collection)
            records = self._run(lambda: shard.retrieve(list(ids), False, False))
        return {read_record(record).id for record in records}

    def patch_group(self, collection: str) -> None:
        """None: here a patch costs no waiting."""

    def delete(self, collection: str, ids: Sequence[PointId]) -> None:
        if ids:
            self._update(collection, edge.UpdateOperation.delete_points(list(ids)))

    def retrieve(
        self, collection: str, ids: Sequence[PointId], *, with_vectors: bool = False
    ) -> list[Point]:
        with self._lock:
            shard = self._shard(collection)
            records = self._run(lambda: shard.retrieve(list(ids), True, with_vectors))
        return [read_record(record) for record in records]

    def scroll(
        self,
        collection: str,
        *,
        after: PointId | None = None,
        limit: int = 1000,
        matching: Mapping[str, str] | None = None,
        with_payload: bool = True,
        with_vectors: bool = False,
    ) -> tuple[list[Point], PointId | None]:
        conditions = equal_fields(matching or {})
        request = edge.ScrollRequest(
            offset=after,
            limit=limit,
            filter=edge.Filter(must=conditions) if conditions else None,
            with_payload=with_payload,
            with_vector=with_vectors,
        )
        with self._lock:
            shard = self._shard(collection)
            records, following = self._run(lambda: shard.scroll(request))
        after_id: Any = following
        if after_id is not None and not isinstance(after_id, int):
            after_id = str(after_id)
        return [read_record(record) for record in records], after_id

    def count(self, collection: str) -> int:
        with self._lock:
            shard = self._shard(collection)
            count: int = self._run(lambda: shard.count(edge.CountRequest(exact=True)))
        return count

    def search(
        self,
        collection: str,
        vector_name: str,
        query: Vector,
        *,
        limit: int = 10,
        exact: bool = False,
    ) -> list[Hit]:
        if isinstance(query, Sparse | Multi):
            raise TypeError("a search takes a dense vector")
        nearest = floats(query)
        request = edge.QueryRequest(
            limit=limit,
            query=edge.Query.Nearest(nearest, vector_name),
            params=edge.SearchParams(exact=exact),
            with_payload=True,
        )
        with self._lock:
            shard = self._shard(collection)
            hits = self._run(lambda: shard.query(request))
        return [
            Hit(
                id=hit.id if isinstance(hit.id, int) else str(hit.id),
                score=hit.score,
                payload=hit.payload or {},
            )
            for hit in hits
        ]

    def scores(
        self, collection: str, vector_name: str, query: Vector, ids: Sequence[PointId]
    ) -> dict[PointId, float]:
        if isinstance(query, Sparse | Multi):
            raise TypeError("scores are of a dense vector")
        request = edge.QueryRequest(
            limit=max(1, len(ids)),
            query=edge.Query.Nearest(floats(query), vector_name),
            filter=edge.Filter(must=[edge.HasIdCondition(set(ids))]),
            params=edge.SearchParams(
                exact=True, quantization=edge.QuantizationSearchParams(ignore=True)
            ),
        )
        with self._lock:
            shard = self._shard(collection)
            hits = self._run(lambda: shard.query(request))
        return {hit.id if isinstance(hit.id, int) else str(hit.id): hit.score for hit in hits}

    def flush(self) -> None:
        with self._lock:
            for name in sorted(self._unflushed):
                self.flush_collection(name)

    def flush_collection(self, name: str) -> None:
        """`flush`, of one collection: the engine answers nobody meanwhile, so it is kept short."""
        with self._lock:
            if name in self._unflushed:
                self._run(self._shard(name).flush)
                self._unflushed.discard(name)

    def close(self) -> None:
        with self._lock:
            for shard in self._shards.values():
                self._run(shard.flush)
                shard.close()
            self._shards.clear()
            held, self._claim = self._claim, -1
            if held >= 0:  # a number that was closed may be somebody else's file by now
                os.close(held)

    def _write(self, collection: str, points: list[edge.Point], mode: WriteMode) -> None:
        update_mode = edge.UpdateMode.InsertOnly if mode == "insert_only" else None
        for start in range(0, len(points), _BATCH_LIMIT):
            batch = points[start : start + _BATCH_LIMIT]
            operation = edge.UpdateOperation.upsert_points(batch, update_mode=update_mode)
            self._update(collection, operation)

    def _update(self, collection: str, operation: edge.UpdateOperation) -> None:
        with self._lock:
            shard = self._shard(collection)
            require_space(self._directory, self.label)
            self._unflushed.add(collection)
            self._run(lambda: shard.update(operation))

    def _path(self, name: str) -> Path:
        return self._directory / "collections" / _file_name(name)

    def _spec(self, name: str) -> CollectionSpec | None:
        if name not in self._specs:
            try:
                text = self._path(name).with_suffix(".json").read_text()
            except FileNotFoundError:
                return None
            self._specs[name] = load(text)
        return self._specs[name]

    def _shard(self, name: str) -> edge.EdgeShard:
        opened = self._shards.get(name)
        if opened is not None:
            return opened
        if self._claim < 0:  # the files may be another process's by now
            raise Unreachable(f"{self.label} was closed", hint="run the same command again")
        spec = self._spec(name)
        if spec is None:
            raise StopError(
                f"collection {name} is not in {self.label}",
                code="TARGET_CHANGED",
                hint="start with --migration.restart to fill a new one",
            )
        path = self._path(name)
        shard: edge.EdgeShard
        if (path / "edge_config.json").exists():
            shard = self._run(lambda: edge.EdgeShard.load(str(path)))
        else:
            _remove_tree(path)  # what a crash in the middle of a creation left
            shard = self._run(lambda: edge.EdgeShard.create(str(path), parameters(spec)))
        # Also one that was there: whoever wrote it may have been killed before the flush.
        self._unflushed.add(name)
        self._shards[name] = shard
        return shard

    def _run(self, action: Any) -> Any:
        """Call the engine. It raises plain exceptions that only their text tells apart."""
        try:
            return action()
        except (ValueError, TypeError, OverflowError) as error:
            raise Rejected(f"Qdrant Edge refuses the request: {_first_line(error)}") from error
        except Exception as error:
            raise _translate(error, self.label) from error


class DoneUpsert:
    """An Upsert that was applied, or failed, when it was sent (`target.Pending`)."""

    __slots__ = ("_error",)

    def __init__(self, error: BridgeError | None) -> None:
        self._error = error

    def result(self) -> None:
        if self._error is not None:
            raise self._error

    def done(self) -> bool:
        return True


def _translate(error: Exception, label: str) -> BridgeError:
    text = _first_line(error)
    lowered = text.lower()
    if "no space left" in lowered or "quota" in lowered or "os error 28" in lowered:
        return disk_full(label)
    if "file too large" in lowered:
        return StopError(
            f"a limit on the size of files is in the way of {label}",
            code="DISK_FULL",
            hint="raise it (ulimit -f) and run the same command again; finished chunks are kept",
        )
    if any(word in lowered for word in ("dimension error", "not existing vector", "bad request",
                                        "wrong input", "no point with id", "validation")):  # fmt: skip
        return Rejected(f"Qdrant Edge refuses the request: {text}")
    return StopError(
        f"Qdrant Edge failed in {label}: {text}",
        code="TARGET_FAILED",
        hint="look at the disk and the directory's permissions, then run the same command again",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _file_name(name: str) -> str:
    """A collection's file name: without dots, so that a suffix is one and `..` leads nowhere."""
    encoded = quote(name, safe="").replace(".", "%2E")
    if len(encoded) > _FILE_NAME_LIMIT:
        return f"+{sha256(name.encode()).hexdigest()}"  # quote() leaves no plus as it is
    return encoded


def _write_atomically(path: Path, text: str) -> None:
    draft = path.with_suffix(".draft")
    try:
        with open(draft, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        raise _translate(error, f"edge://{path.parent.parent}") from error


def _remove_tree(path: Path) -> None:
    if not path.exists():
        return
    for root, directories, files in os.walk(path, topdown=False):
        for name in files:
            os.unlink(os.path.join(root, name))
        for name in directories:
            os.rmdir(os.path.join(root, name))
    os.rmdir(path)


def _point(message: q.PointStruct) -> Point:
    vectors: dict[str, Vector] = {}
    if message.vectors.HasField("vector"):
        vectors[""] = read_vector(message.vectors.vector)
    else:
        for name, vector in message.vectors.vectors.vectors.items():
            vectors[name] = read_vector(vector)
    return Point(read_id(message.id), vectors, read_payload(message.payload))
