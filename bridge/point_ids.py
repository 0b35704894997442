"""Source key -> point id.

Qdrant knows two kinds of id: unsigned 64-bit integers and UUIDs. `point_id` keeps both as they are
and hashes every other text, so that it is injective on what users have, and so that a row of
Postgres and a record of Pinecone with the same id are one point:

    point_id("42")                                     -> 42
    point_id("6f6c1f4e-9a3b-4d1c-8e7f-2a1b3c4d5e6f")   -> that UUID
    point_id("-1"), point_id("007"), point_id("doc-7") -> UUIDv5(NAMESPACE, text)

Only the canonical spelling counts: `007` and `6F6C...` are texts of their own and are hashed, since a
source that holds both `7` and `007` holds two rows.

The ids are public and must never change: `tests/unit/test_point_ids.py` pins worked examples.
RFC 9562 section 5.5 defines UUIDv5.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from hashlib import sha1
from uuid import NAMESPACE_URL, UUID

PointId = int | str
"""An unsigned 64-bit integer, or the canonical text of a UUID (what Qdrant's wire carries)."""

NAMESPACE = UUID("b7c3a1d4-52f6-5e0b-9a47-3d2f8c61e095")
"""This project's UUIDv5 namespace. Chosen once at random; part of the public contract."""

_UINT64_LIMIT = 2**64
_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_HEX = re.compile(r"[0-9a-fA-F]{32}")
_HYPHENATED_HEX = re.compile(
    r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
)


def point_id(text: str) -> PointId:
    """The point id of a source key's text."""
    # isdigit alone also takes other scripts' digits, which are no canonical decimal.
    if text.isdigit() and text.isascii():
        if (text[0] != "0" or text == "0") and len(text) <= 20:
            number = int(text)
            if number < _UINT64_LIMIT:
                return number
    elif _CANONICAL_UUID.fullmatch(text):
        return text
    return hashed(NAMESPACE, text)


def hashed(namespace: UUID, text: str) -> str:
    """UUIDv5 as canonical text. Written out: uuid.uuid5 builds an object that we would only print."""
    digest = sha1(namespace.bytes + text.encode("utf-8"), usedforsecurity=False).digest()
    value = bytearray(digest[:16])
    value[6] = (value[6] & 0x0F) | 0x50
    value[8] = (value[8] & 0x3F) | 0x80
    digits = value.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def composite_text(parts: Sequence[str]) -> str:
    """The text of a composite key: a JSON array of text forms, no blanks, UTF-8 unescaped.

    Always hashed by `point_id`, since a text that starts with `[` is no number and no UUID. Pinecone's
    pair of namespace and id takes the same form.
    """
    return json.dumps(list(parts), ensure_ascii=False, separators=(",", ":"))


def key_point_id(parts: Sequence[str]) -> PointId:
    """The point id of a key given by its columns' texts, in the order of the key's index."""
    return point_id(parts[0] if len(parts) == 1 else composite_text(parts))


def qdrant_migration_point_id(text: str) -> PointId:
    """The id that qdrant/migration gives this key, so that its collections can be continued.

    It passes what Go's `uuid.Parse` takes (github.com/google/uuid): 36 characters, 32 hex digits,
    braces, and `urn:uuid:` in any case; everything else, numbers too, is UUIDv5 of NAMESPACE_URL.
    Not injective: the caller must refuse two keys with one UUID.
    """
    spelled = _go_uuid(text)
    return spelled if spelled is not None else hashed(NAMESPACE_URL, text)


def _go_uuid(text: str) -> str | None:
    if not text.isascii():
        return (
            None  # Go counts bytes and none of its forms has any beyond ASCII in a place it reads
        )
    body: str | None = None
    if len(text) == 36:
        body = text
    elif len(text) == 45 and text[:9].lower() == "urn:uuid:":
        body = text[9:]
    elif len(text) == 38:
        # Go looks at the first character's position only, and takes 36 characters from there on.
        body = text[1:37]
    elif len(text) == 32 and _HEX.fullmatch(text):
        return str(UUID(text))
    if body is not None and _HYPHENATED_HEX.fullmatch(body):
        return body.lower()
    return None
