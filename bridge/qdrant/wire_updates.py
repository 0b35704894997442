"""Patches -> the protobuf bytes of an UpdateBatch request.

`qdrant.UpdateBatchPoints` and what it contains (points.proto), encoded as in `wire.py`. The server runs
the operations of a batch in their order (facts/qdrant.md, Writing), so a point's payload comes before
its vectors; the points of a batch are distinct.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from bridge.plan import Buffer, Patch
from bridge.point_ids import PointId
from bridge.qdrant.wire import ORDERING, append_vectors, id_field
from bridge.qdrant.wire_values import STRUCT, enclosed, encode_fields, varint

UPDATE_BATCH = "/qdrant.Points/UpdateBatch"

# Below the payload lie UpdateBatchPoints > operation > OverwritePayload > entry > Value.
_PAYLOAD_DEPTH = 5


def encode_patches(
    collection: str, patches: Sequence[Patch], *, ordering: str = "weak", wait: bool = True
) -> bytes:
    """One UpdateBatch: payloads replaced, then vectors set, then vectors deleted.

    With `wait` it is answered once each operation is durable; without, once they are accepted, which
    proves nothing (`patch_group.py`).
    """
    name = collection.encode()
    parts: list[Buffer] = [b"\x0a", varint(len(name)), name]  # 1 collection
    parts.append(b"\x10\x01" if wait else b"\x10\x00")  # 2 wait
    for patch in patches:
        fields = encode_fields(STRUCT, patch.payload, _PAYLOAD_DEPTH)  # {1 payload}
        body = fields + enclosed(b"\x12", _selector([patch.id]))  # {2 points_selector}
        parts.append(_operation(b"\x22", body))  # 4 overwrite_payload
    parts += _set_vectors(patch for patch in patches if patch.vectors)
    parts += _clear_vectors(patches)
    if ORDERING[ordering]:
        parts.append(b"\x22\x02\x08" + varint(ORDERING[ordering]))  # 4 ordering {1 type}
    return b"".join(parts)


def _set_vectors(patches: Iterable[Patch]) -> list[Buffer]:
    points: list[Buffer] = []
    for patch in patches:
        identity = id_field(patch.id)  # PointVectors {1 id}
        vectors: list[Buffer] = []
        size = len(identity) + append_vectors(vectors, b"\x12", patch.vectors)  # {2 vectors}
        points += (b"\x0a" + varint(size) + identity, *vectors)  # UpdateVectors {1 points}
    return [_operation(b"\x3a", b"".join(points))] if points else []  # 7 update_vectors


def _clear_vectors(patches: Iterable[Patch]) -> list[Buffer]:
    by_names: defaultdict[frozenset[str], list[PointId]] = defaultdict(list)
    for patch in patches:
        if patch.cleared:
            by_names[patch.cleared].append(patch.id)
    operations: list[Buffer] = []
    for names, ids in by_names.items():
        selected = b"".join(enclosed(b"\x0a", name.encode()) for name in sorted(names))
        body = enclosed(b"\x0a", _selector(ids)) + enclosed(b"\x12", selected)
        operations.append(_operation(b"\x42", body))  # 8 delete_vectors {1 selector, 2 vectors}
    return operations


def _selector(ids: Iterable[PointId]) -> bytes:
    """PointsSelector {1 points {1 ids}}."""
    return enclosed(b"\x0a", b"".join(map(id_field, ids)))


def _operation(tag: bytes, body: bytes) -> bytes:
    return enclosed(b"\x1a", enclosed(tag, body))  # UpdateBatchPoints {3 operations}
