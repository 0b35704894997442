"""What a Qdrant collection must be like to take a table's or an index's points. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from bridge.errors import UsageError

Distance = Literal["cosine", "dot", "euclid", "manhattan"]
Datatype = Literal["float32", "float16", "uint8"]
Shape = Literal["dense", "sparse", "multi"]
IndexKind = Literal[
    "keyword", "integer", "float", "bool", "geo", "datetime", "text", "uuid", "tenant"
]
"""`tenant`: a keyword index by which the points of one tenant lie together (Qdrant's `is_tenant`)."""

_FORBIDDEN = frozenset('<>:"/\\|?*\0\x1f')
_NAME_LIMIT_BYTES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class HnswSpec:
    """HNSW parameters; None leaves the server's default. pgvector's `ef_construction` is `ef_construct`."""

    m: int | None = None
    ef_construct: int | None = None
    full_scan_threshold: int | None = None
    on_disk: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationSpec:
    """Quantization of the vectors kept in RAM. `compression` belongs to product, `quantile` to scalar."""

    kind: Literal["scalar", "binary", "product"]
    always_ram: bool | None = None
    quantile: float | None = None
    compression: Literal["x4", "x8", "x16", "x32", "x64"] = "x16"


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorSpec:
    """One named vector; the name is `""` for the unnamed default one. A sparse one has no dimension."""

    name: str
    shape: Shape
    distance: Distance
    dimension: int | None = None
    datatype: Datatype = "float32"
    on_disk: bool | None = None
    hnsw: HnswSpec | None = None
    quantization: QuantizationSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSpec:
    """A collection: its vectors, and payload indexes by JSON path (`category`, `metadata.source`)."""

    name: str
    vectors: tuple[VectorSpec, ...]
    payload_indexes: Mapping[str, IndexKind] = field(default_factory=dict)


def check_name(name: str, *, what: str, hint: str) -> None:
    """UsageError if Qdrant refuses this name of a collection or vector (facts/qdrant: costs).

    `what` names the thing (`collection`, `vector of column x`), `hint` the setting that renames it.
    """
    bad = sorted(_FORBIDDEN & set(name))
    if bad:
        shown = " ".join(repr(character) for character in bad)
        raise UsageError(f"Qdrant refuses {what} {name!r}: it contains {shown}", hint=hint)
    if len(name.encode("utf-8", "surrogatepass")) > _NAME_LIMIT_BYTES:
        raise UsageError(f"Qdrant refuses {what} {name[:40]!r}...: over 200 bytes", hint=hint)
