"""pgvector's text forms -> its binary ones, for streams that send text.

The texts are those of the output functions (pgvector README; PostgreSQL documentation, 8.10 for bit
strings, 8.15 for arrays): `[1,2.5]`, `{1:1.5,7:2}/9` (indices from 1), `0101`, `{"[1,2]","[3,4]"}`.
float4's text is the shortest that identifies it, so the way over a double loses nothing.
"""

from __future__ import annotations

import struct

import numpy as np

from bridge.errors import Unstorable
from bridge.postgres.decode_text import parse_array
from bridge.vectors import Kind

_COMPONENT = {"vector": ">f4", "halfvec": ">f2"}


def vector_from_text(kind: Kind, text: str, *, multi: bool = False) -> bytes:
    """The binary form of one value. Unstorable if it is not written as documented."""
    try:
        if multi:
            return _array(kind, text)
        if kind == "sparsevec":
            return _sparse(text)
        return _bits(text) if kind == "bit" else _dense(kind, text)
    except (ValueError, struct.error):
        raise Unstorable(f"a {kind} is not in its text form") from None


def _dense(kind: Kind, text: str) -> bytes:
    if text[:1] != "[" or text[-1:] != "]":
        raise ValueError("no brackets")
    numbers = np.array(text[1:-1].split(","), dtype=np.float64).astype(_COMPONENT[kind])
    return struct.pack(">hh", len(numbers), 0) + numbers.tobytes()


def _bits(text: str) -> bytes:
    if not text or set(text) - {"0", "1"}:
        raise ValueError("no bits")
    bits = np.frombuffer(text.encode(), dtype=np.uint8) - ord("0")
    return struct.pack(">i", len(text)) + np.packbits(bits).tobytes()


def _sparse(text: str) -> bytes:
    body, _slash, dimension = text.rpartition("/")
    if body[:1] != "{" or body[-1:] != "}":
        raise ValueError("no braces")
    pairs = [pair.split(":") for pair in body[1:-1].split(",") if pair]
    indices = np.array([int(index) - 1 for index, _ in pairs], dtype=">i4")
    values = np.array([float(value) for _, value in pairs], dtype=np.float64).astype(">f4")
    head = struct.pack(">iii", int(dimension), len(pairs), 0)
    return head + indices.tobytes() + values.tobytes()


def _array(kind: Kind, text: str) -> bytes:
    """One dimension is enough: whoever reads it takes the elements in storage order."""
    elements: list[bytes | None] = []
    stack = list(parse_array(text, ",", lambda item: item))
    while stack:
        item = stack.pop(0)
        if isinstance(item, list):
            stack[:0] = item
        elif item is None:
            elements.append(None)
        else:
            elements.append(_dense(kind, str(item)))
    if not elements:
        return struct.pack(">iii", 0, 0, 0)
    parts = [struct.pack(">iiiii", 1, int(None in elements), 0, len(elements), 1)]
    for element in elements:
        parts.append(struct.pack(">i", -1 if element is None else len(element)))
        parts.append(element or b"")
    return b"".join(parts)
