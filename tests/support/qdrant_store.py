"""The collections of the Qdrant test server, each one shard of Qdrant Edge in its own directory.

A collection's directory holds the shard, `name`, and `info.pb`: a CollectionInfo message with the
configuration as the server reports it and the payload indexes. `info.pb` is written last, by
rename; a directory without it is the rest of a creation that did not finish, and goes.
"""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import grpc
import qdrant_edge as edge
from qdrant_client import grpc as qdrant

from tests.support.qdrant_faults import Status
from tests.support.qdrant_values import invalid

FORBIDDEN: Final = '<>:"/\\|?*\0\x1f'
MAX_VECTOR_NAME_BYTES: Final = 200

# Edge refuses a shard without any vector, Qdrant does not. No user can take a name with a colon.
PLACEHOLDER: Final = ":none"

DISTANCES: Final = {
    qdrant.Distance.Cosine: edge.Distance.Cosine,
    qdrant.Distance.Euclid: edge.Distance.Euclid,
    qdrant.Distance.Dot: edge.Distance.Dot,
    qdrant.Distance.Manhattan: edge.Distance.Manhattan,
}
DATATYPES: Final = {
    qdrant.Datatype.Default: None,
    qdrant.Datatype.Float32: edge.VectorStorageDatatype.Float32,
    qdrant.Datatype.Float16: edge.VectorStorageDatatype.Float16,
    qdrant.Datatype.Uint8: edge.VectorStorageDatatype.Uint8,
}

# Beginnings of Edge's messages that the server passes on as wrong input.
BAD_INPUT: Final = (
    "Vector dimension error",
    "Not existing vector name error",
    "No range index for",
    "No appropriate index for",
    "Validation failed",
)
BAD_PATH: Final = "invalid JSON path "


def translate(error: Exception) -> Status:
    """Edge's exceptions, known by their text alone, as the server's statuses."""
    text = str(error)
    if text.startswith(BAD_PATH):
        return invalid(f"Invalid json path: '{text.removeprefix(BAD_PATH)}'")
    if text.startswith("No point with id"):
        return Status(grpc.StatusCode.NOT_FOUND, f"Not found: {text} found")
    if text.startswith(BAD_INPUT):
        return invalid(f"Wrong input: {text}")
    if text.startswith("Wrong usage of "):
        kind = "sparse" if "sparse" in text else "multi"
        return invalid(f"Wrong input: Conversion between {kind} and regular vectors failed")
    if isinstance(error, ValueError):
        return invalid(f"Wrong input: {text}")
    return Status(grpc.StatusCode.INTERNAL, f"Service internal error: {text}")


class Collection:
    """One collection: its shard, its configuration, and the lock that orders its writes."""

    def __init__(self, directory: Path, name: str, info: qdrant.CollectionInfo) -> None:
        self.directory = directory
        self.name = name
        self.info = info
        self.lock = threading.RLock()
        self.operations = 0
        self.holding = False
        self.held: list[edge.UpdateOperation] = []
        self._shard: edge.EdgeShard | None = None

    @classmethod
    def create(cls, directory: Path, name: str, info: qdrant.CollectionInfo) -> Collection:
        """Make a collection on disk."""
        directory.mkdir()
        collection = cls(directory, name, info)
        collection._shard = edge.EdgeShard.create(str(directory / "shard"), _edge_config(info))
        (directory / "name").write_text(name, encoding="utf-8")
        collection.save()
        return collection

    @classmethod
    def load(cls, directory: Path) -> Collection | None:
        """Open a collection; None, and nothing left of it, if its creation did not finish."""
        if not (directory / "info.pb").exists():
            shutil.rmtree(directory)
            return None
        info = qdrant.CollectionInfo.FromString((directory / "info.pb").read_bytes())
        collection = cls(directory, (directory / "name").read_text(encoding="utf-8"), info)
        collection._shard = edge.EdgeShard.load(str(directory / "shard"))
        return collection

    @property
    def shard(self) -> edge.EdgeShard:
        """The open shard; UNAVAILABLE once the collection was closed."""
        if self._shard is None:
            raise Status(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        return self._shard

    def save(self) -> None:
        """Make the configuration durable."""
        unfinished = self.directory / "info.pb.new"
        unfinished.write_bytes(self.info.SerializeToString())
        unfinished.rename(self.directory / "info.pb")

    def close(self) -> None:
        """Release the shard, after the operation that runs."""
        with self.lock:
            shard, self._shard = self._shard, None
            if shard is not None:
                shard.close()

    def call(self, operation: Callable[[edge.EdgeShard], Any]) -> Any:
        """Run an operation on the shard, its errors translated; one at a time."""
        with self.lock:
            shard = self.shard
            try:
                return operation(shard)
            except Status:
                raise
            except Exception as error:
                raise translate(error) from error

    def dense_params(self) -> Mapping[str, qdrant.VectorParams]:
        """The dense vectors by name; the default one is ''."""
        return dense_params(self.info.config.params.vectors_config)

    def described(self) -> qdrant.CollectionInfo:
        """What the server reports of it now."""
        info = qdrant.CollectionInfo()
        with self.lock:
            state = self.call(lambda shard: shard.info())
            info.CopyFrom(self.info)
        info.status = qdrant.CollectionStatus.Green
        info.optimizer_status.ok = True
        info.segments_count = state.segments_count
        info.points_count = self.call(lambda shard: shard.count(edge.CountRequest(exact=True)))
        info.indexed_vectors_count = state.indexed_vectors_count
        info.update_queue.length = 0
        if info.config.optimizer_config.prevent_unoptimized:
            info.update_queue.deferred_points = 0
        for field, schema in info.payload_schema.items():
            if field in state.payload_schema:
                schema.points = state.payload_schema[field].points
        return info


class Store:
    """All collections under one directory. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.RLock()
        self._collections: dict[str, Collection] = {}

    def open(self) -> None:
        """Load what is there."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._lock:
            for directory in sorted(self.directory.iterdir()):
                collection = Collection.load(directory)
                if collection is not None:
                    self._collections[collection.name] = collection

    def close(self) -> None:
        """Release every shard."""
        with self._lock:
            for collection in self._collections.values():
                collection.close()
            self._collections.clear()

    def names(self) -> list[str]:
        """The collections' names, sorted."""
        with self._lock:
            return sorted(self._collections)

    def get(self, name: str) -> Collection:
        """The collection of that name, or NOT_FOUND."""
        check_name(name)
        with self._lock:
            collection = self._collections.get(name)
        if collection is None:
            raise Status(
                grpc.StatusCode.NOT_FOUND, f"Not found: Collection `{name}` doesn't exist!"
            )
        return collection

    def create(self, name: str, info: qdrant.CollectionInfo) -> None:
        """Make a collection, or ALREADY_EXISTS."""
        with self._lock:
            if name in self._collections:
                raise Status(
                    grpc.StatusCode.ALREADY_EXISTS,
                    f"Wrong input: Collection `{name}` already exists!",
                )
            directory = self.directory / uuid.uuid4().hex
            try:
                self._collections[name] = Collection.create(directory, name, info)
            except Exception as error:
                shutil.rmtree(directory, ignore_errors=True)
                raise error if isinstance(error, Status) else translate(error) from error

    def delete(self, name: str) -> bool:
        """Delete a collection; False if there is none of that name."""
        check_name(name)
        with self._lock:
            collection = self._collections.pop(name, None)
        if collection is None:
            return False
        collection.close()
        (collection.directory / "info.pb").unlink()
        shutil.rmtree(collection.directory)
        return True


def check_name(name: str, forbidden: str = "/\0") -> None:
    """INVALID_ARGUMENT for a name the server's validation refuses."""
    if not 1 <= len(name) <= 255:
        raise invalid(
            f'Validation error in body: [collection_name: value "{name}" invalid,'
            " must be from 1 to 255 characters]"
        )
    for character in forbidden:
        if character in name:
            raise invalid(
                "Validation error in body:"
                f' [collection_name: collection name cannot contain "{character}" char]'
            )


def check_vector_name(name: str, kind: str = "") -> None:
    """INVALID_ARGUMENT for a vector name the server refuses; `kind`: `dense ` or `sparse `."""
    reason = ""
    if len(name.encode()) > MAX_VECTOR_NAME_BYTES:
        reason = f"vector name must be at most {MAX_VECTOR_NAME_BYTES} bytes long"
    elif bad := next((each for each in FORBIDDEN if each in name), ""):
        reason = f'vector name cannot contain "{bad}" char'
    if reason:
        raise invalid(f"Wrong input: Invalid {kind}vector name `{name}`: {reason}")


def dense_params(config: qdrant.VectorsConfig) -> Mapping[str, qdrant.VectorParams]:
    """The dense vectors of a configuration, by name."""
    if config.WhichOneof("config") == "params":
        return {"": config.params}
    named: Mapping[str, qdrant.VectorParams] = config.params_map.map
    return named


def edge_datatype(message: Any) -> edge.VectorStorageDatatype | None:
    """The element type of a vector's parameters, None for the default."""
    if message.datatype not in DATATYPES:
        raise invalid(f"Cannot convert datatype: {message.datatype}")
    return DATATYPES[message.datatype]


def edge_multivector(message: Any) -> edge.MultiVectorConfig | None:
    """The multivector configuration of a vector's parameters."""
    if not message.HasField("multivector_config"):
        return None
    return edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)


def edge_distance(message: Any) -> edge.Distance:
    """The distance of a vector's parameters."""
    if message.distance not in DISTANCES:
        raise invalid("Malformed distance parameter: UnknownDistance")
    return DISTANCES[message.distance]


def edge_modifier(message: Any) -> edge.Modifier | None:
    """The modifier of a sparse vector's parameters."""
    return edge.Modifier.Idf if message.modifier == qdrant.Modifier.Idf else None


def _edge_config(info: qdrant.CollectionInfo) -> edge.EdgeConfig:
    params = info.config.params
    dense = {
        name: edge.EdgeVectorParams(
            size=vector.size,
            distance=edge_distance(vector),
            multivector_config=edge_multivector(vector),
            datatype=edge_datatype(vector),
        )
        for name, vector in dense_params(params.vectors_config).items()
    }
    sparse = {
        name: edge.EdgeSparseVectorParams(
            modifier=edge_modifier(vector), datatype=edge_datatype(vector.index)
        )
        for name, vector in params.sparse_vectors_config.map.items()
    }
    if not dense and not sparse:
        sparse[PLACEHOLDER] = edge.EdgeSparseVectorParams()
    return edge.EdgeConfig(vectors=dense, sparse_vectors=sparse)
