"""What the process that has an edge directory open does for the others: one request, one answer.

    reads     collections, collection, existing, retrieve, scroll, count, search, scores: of any
              collection
    writes    upsert, replace, delete: of the reserved collection `_qdrant_bridge` alone; flushed
    hello     whether both speak the same version

Whatever else is asked is refused. Reads are cut into short ones, since the engine does one thing at a
time and whoever holds the directory wants to write: an answer may hold less than was asked for, and says
where it ends.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from bridge.errors import BridgeError, StopError, UsageError
from bridge.plan import Point
from bridge.point_ids import PointId
from bridge.qdrant.edge_codec import (
    VERSION,
    Frame,
    PointsOut,
    collection_document,
    decode_whole,
    encode,
    error_document,
    malformed,
    read_id,
    read_points,
)
from bridge.qdrant.target import STATE_COLLECTION, Target, WriteMode

SLICE_POINTS = 100
"""So many points are read from the engine at once: about a millisecond, vectors included."""
SLICE_IDS = 1_000
"""So many, if ids are all that is wanted."""
ANSWER_BYTES = 8 * 1024 * 1024
"""An answer ends after the slice that brings it here."""


class Held(Target, Protocol):
    """A target that this process has open, and can flush by the collection."""

    def flush_collection(self, name: str) -> None:
        """Make what was written to the collection survive a power loss."""


def answer(target: Held, request: bytes) -> bytes:
    """The answer to a request; errors are answers too. Both are whole frames."""
    try:
        return _answer(target, decode_whole(request))
    except BridgeError as error:
        return encode({"error": error_document(error)})
    except Exception as error:
        return encode({"error": error_document(_unforeseen(error))})


def refusal(error: BridgeError) -> bytes:
    """An answer to whatever is asked."""
    return encode({"error": error_document(error)})


def _answer(target: Held, frame: Frame) -> bytes:
    name = frame.document.get("request")
    handler = _REQUESTS.get(name) if isinstance(name, str) else None
    if handler is None:
        raise malformed("a request is unknown")
    return handler(target, frame)


def _unforeseen(error: Exception) -> StopError:
    """A defect of ours: told by its kind and place, since its text may hold a row's values."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return StopError(
        f"a request to process {os.getpid()} failed: {type(error).__name__}{place}",
        code="INTERNAL",
        hint="please report it; nothing was written",
    )


# --- reads -----------------------------------------------------------------------------------------


def _hello(_target: Held, frame: Frame) -> bytes:
    if frame.document.get("version") != VERSION:
        raise UsageError(
            f"process {os.getpid()}, which has the directory open, is of another version of "
            "qdrant-bridge",
            hint="run the same version; or stop that process first",
        )
    return encode({"version": VERSION, "pid": os.getpid()})


def _collections(target: Held, _frame: Frame) -> bytes:
    return encode({"names": target.collections()})


def _collection(target: Held, frame: Frame) -> bytes:
    return encode({"collection": collection_document(target.collection(_text(frame, "name")))})


def _count(target: Held, frame: Frame) -> bytes:
    return encode({"count": target.count(_text(frame, "collection"))})


def _existing(target: Held, frame: Frame) -> bytes:
    collection, ids = _text(frame, "collection"), _ids(frame)[:SLICE_IDS]
    return encode({"ids": list(target.existing(collection, ids)), "answered": len(ids)})


def _retrieve(target: Held, frame: Frame) -> bytes:
    """Those that there are of the first `answered` ids."""
    collection, ids, answered = _text(frame, "collection"), _ids(frame), 0
    with_vectors = _flag(frame, "with_vectors")
    points = PointsOut()
    while answered < len(ids) and points.size < ANSWER_BYTES:
        some = ids[answered : answered + SLICE_POINTS]
        points.add(target.retrieve(collection, some, with_vectors=with_vectors))
        answered += len(some)
    return encode({"points": points.document, "answered": answered}, points.blobs)


def _scroll(target: Held, frame: Frame) -> bytes:
    collection, limit = _text(frame, "collection"), _number(frame, "limit")
    following = _id_or_none(frame.document.get("after"))
    options: dict[str, Any] = {
        "matching": _texts(frame, "matching"),
        "with_payload": _flag(frame, "with_payload"),
        "with_vectors": _flag(frame, "with_vectors"),
    }
    bare = not options["with_payload"] and not options["with_vectors"]
    slice_points = SLICE_IDS if bare else SLICE_POINTS
    points = PointsOut()
    while True:
        page, following = target.scroll(
            collection,
            after=following,
            limit=min(slice_points, limit - len(points.document)),
            **options,
        )
        points.add(page)
        full = len(points.document) >= limit or points.size >= ANSWER_BYTES
        if following is None or full:
            return encode({"points": points.document, "following": following}, points.blobs)


def _search(target: Held, frame: Frame) -> bytes:
    hits = target.search(
        _text(frame, "collection"),
        _text(frame, "vector"),
        bytes(frame.blobs),
        limit=_number(frame, "limit"),
        exact=_flag(frame, "exact"),
    )
    return encode({"hits": [[hit.id, hit.score, dict(hit.payload)] for hit in hits]})


def _scores(target: Held, frame: Frame) -> bytes:
    """Those of the first `answered` ids."""
    ids = _ids(frame)[:SLICE_IDS]
    found = target.scores(
        _text(frame, "collection"), _text(frame, "vector"), bytes(frame.blobs), ids
    )
    return encode({"scores": [list(pair) for pair in found.items()], "answered": len(ids)})


# --- writes ----------------------------------------------------------------------------------------


def _upsert(target: Held, frame: Frame) -> bytes:
    mode = _text(frame, "mode")
    if mode not in ("upsert", "insert_only"):
        raise malformed("a mode of writing is unknown")
    points = _points(frame)
    return _write(
        target,
        frame,
        lambda name: target.upsert(name, points, mode=cast("WriteMode", mode)),
    )


def _replace(target: Held, frame: Frame) -> bytes:
    points, matching = _points(frame), _texts(frame, "matching")
    if not matching:
        raise malformed("a condition is missing")
    return _write(target, frame, lambda name: target.replace(name, points, matching=matching))


def _delete(target: Held, frame: Frame) -> bytes:
    ids = _ids(frame)
    return _write(target, frame, lambda name: target.delete(name, ids))


def _write(target: Held, frame: Frame, action: Callable[[str], None]) -> bytes:
    name = _text(frame, "collection")
    if name != STATE_COLLECTION:
        raise only_its_holder(target.label, f"process {os.getpid()}")
    action(name)
    target.flush_collection(name)
    return encode({})


def only_its_holder(label: str, holder: str) -> UsageError:
    """Somebody else wants to write rows."""
    return UsageError(
        f"{label} is in use by {holder}, which alone writes to its collections",
        hint="wait for that process, or stop it",
    )


# --- arguments -------------------------------------------------------------------------------------


def _text(frame: Frame, name: str) -> str:
    value = frame.document.get(name)
    if not isinstance(value, str):
        raise malformed(f"{name} is no text")
    return value


def _flag(frame: Frame, name: str) -> bool:
    value = frame.document.get(name)
    if not isinstance(value, bool):
        raise malformed(f"{name} is neither true nor false")
    return value


def _number(frame: Frame, name: str) -> int:
    value = frame.document.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise malformed(f"{name} is no number above 0")
    return value


def _texts(frame: Frame, name: str) -> Mapping[str, str]:
    value = frame.document.get(name)
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise malformed(f"{name} has values that are no texts")
    return cast("dict[str, str]", value)


def _ids(frame: Frame) -> list[PointId]:
    value = frame.document.get("ids")
    if not isinstance(value, list):
        raise malformed("ids are no list")
    return [read_id(identity) for identity in value]


def _id_or_none(value: object) -> PointId | None:
    return None if value is None else read_id(value)


def _points(frame: Frame) -> list[Point]:
    return read_points(frame.document.get("points"), frame.blobs)


_REQUESTS: Mapping[str, Callable[[Held, Frame], bytes]] = {
    "hello": _hello,
    "collections": _collections,
    "collection": _collection,
    "count": _count,
    "existing": _existing,
    "retrieve": _retrieve,
    "scroll": _scroll,
    "search": _search,
    "scores": _scores,
    "upsert": _upsert,
    "replace": _replace,
    "delete": _delete,
}
