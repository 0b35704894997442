"""Field updates -> the protobuf bytes of an UpdateBatch request.

`qdrant.UpdateBatchPoints` (points.proto), encoded as in `wire.py`. Its operations run in their order
(facts/qdrant.md, Writing): points that are missing are made first (`insert_only`: the others stay as
they are), then each point's fields are set. `set_payload` merges the keys of one level and a null
deletes its key; with `key` that level is an object deeper inside. So what is not named stays.
"""

from __future__ import annotations

from collections.abc import Sequence

from bridge.json_paths import json_path
from bridge.payload_fields import new_point
from bridge.plan import Buffer, Fields
from bridge.point_ids import PointId
from bridge.qdrant.wire import ORDERING, UPDATE_MODE, append_point, id_field
from bridge.qdrant.wire_values import STRUCT, enclosed, encode_fields, varint

# Below the payload lie UpdateBatchPoints > operation > SetPayload > entry > Value.
_PAYLOAD_DEPTH = 5


def encode_field_updates(
    collection: str, updates: Sequence[Fields], *, ordering: str = "weak"
) -> bytes:
    """One UpdateBatch with `wait=true`. Unstorable if a value cannot be stored."""
    name = collection.encode()
    parts: list[bytes] = [enclosed(b"\x0a", name), b"\x10\x01"]  # 1 collection, 2 wait
    parts.append(_operation(b"\x0a", _new_points(updates)))  # 1 upsert
    for update in updates:
        selector = enclosed(b"\x12", _selector(update.id))  # {2 points_selector}
        for parent, values in update.groups.items():
            if not parent or any(value is not None for value in values.values()):
                fields = encode_fields(STRUCT, values, _PAYLOAD_DEPTH)  # {1 payload}
                key = enclosed(b"\x22", json_path(parent).encode()) if parent else b""  # {4 key}
                parts.append(_operation(b"\x1a", fields + selector + key))  # 3 set_payload
            else:
                # To set nothing but nulls would make the object that they are deleted from.
                keys = b"".join(
                    enclosed(b"\x0a", json_path((*parent, name)).encode()) for name in values
                )  # {1 keys}
                parts.append(_operation(b"\x2a", keys + selector))  # 5 delete_payload
    if ORDERING[ordering]:
        parts.append(b"\x22\x02\x08" + varint(ORDERING[ordering]))  # 4 ordering {1 type}
    return b"".join(parts)


def _new_points(updates: Sequence[Fields]) -> bytes:
    """PointStructList {1 points, 4 update_mode}."""
    parts: list[Buffer] = []
    for update in updates:
        at = len(parts)
        append_point(parts, new_point(update))
        parts[at] = b"\x0a" + bytes(parts[at])[1:]  # field 1 here, where an Upsert has field 3
    return b"".join([*parts, b"\x20" + varint(UPDATE_MODE["insert_only"])])


def _selector(identity: PointId) -> bytes:
    """PointsSelector {1 points {1 ids}}."""
    return enclosed(b"\x0a", id_field(identity))


def _operation(tag: bytes, body: bytes) -> bytes:
    return enclosed(b"\x1a", enclosed(tag, body))  # UpdateBatchPoints {3 operations}
