"""Payload values -> protobuf bytes: varints, `Value`, and maps of them.

The messages are `qdrant.Value`, `Struct` and `ListValue` (Qdrant's json_with_int.proto); the encoding is
protobuf's (protobuf.dev/programming-guides/encoding). Field numbers stand beside each tag below.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from bridge.errors import Unstorable
from bridge.values import PayloadValue

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_UINT64 = 2**64
_DOUBLE = struct.Struct("<d").pack
# Messages may nest 100 deep (protobuf's default for parsers, which all clients keep). Qdrant itself takes
# more, but then nobody could read the point back, nor the page of a scroll that it lies on.
_DEEPEST = 100
_PAYLOAD_DEPTH = 4  # UpsertPoints > PointStruct > entry > Value; answers nest no deeper

# Lengths and small integers are the bulk of all varints: those of one and two bytes are looked up,
# and longer ones are put together from pairs of groups that are known to go on.
_PAIR = 1 << 14
_VARINTS = tuple(bytes((n,)) if n < 128 else bytes((n & 127 | 128, n >> 7)) for n in range(_PAIR))
_PAIRS = tuple(bytes((n & 127 | 128, n >> 7 | 128)) for n in range(_PAIR))


def varint(number: int) -> bytes:
    """An unsigned LEB128 number."""
    if number < _PAIR:
        return _VARINTS[number]
    return _PAIRS[number & _PAIR - 1] + varint(number >> 14)


def enclosed(tag: bytes, body: bytes) -> bytes:
    """A field that holds bytes: its tag, their length, and they."""
    return tag + varint(len(body)) + body


# What is remembered of each: keys inside JSON, and the lengths of values, may be without bound.
_KEYS_KEPT = 4096
_LENGTHS_KEPT = 4096

_NULL, _TRUE, _FALSE = b"\x08\x00", b"\x28\x01", b"\x28\x00"  # Value {1 null, 5 bool}


class _ByLength(dict[int, bytes]):
    """What stands in front of a value's bytes, by their number; made at the first use of each.

    `before` is what encloses a Value of a given length, `tag` the field of Value that holds the bytes:
    4 string, 6 struct or 7 list; without it they are the Value itself.
    """

    def __init__(self, before: Callable[[int], bytes], tag: bytes) -> None:
        super().__init__()
        self._before = before
        self._tag = tag

    def __missing__(self, length: int) -> bytes:
        inner = self._tag + varint(length) if self._tag else b""
        head = self._before(len(inner) + length) + inner
        if len(self) < _LENGTHS_KEPT:
            self[length] = head
        return head


class Heads:
    """The heads under one key of a map, whose entries are {1 key, 2 value}."""

    __slots__ = ("_name", "_tag", "double", "false", "integer", "lists", "null", "structs", "texts",
                 "true")  # fmt: skip

    def __init__(self, tag: bytes, key: str) -> None:
        raw = key.encode()
        self._tag = tag
        self._name = b"\x0a" + varint(len(raw)) + raw + b"\x12"
        self.texts = _ByLength(self._entry, b"\x22")
        self.structs = _ByLength(self._entry, b"\x32")
        self.lists = _ByLength(self._entry, b"\x3a")
        self.integer = [self._entry(length + 1) + b"\x18" for length in range(11)]
        self.double = self._entry(9) + b"\x11"
        self.null = self._entry(2) + _NULL
        self.true = self._entry(2) + _TRUE
        self.false = self._entry(2) + _FALSE

    def _entry(self, length: int) -> bytes:
        size = varint(length)
        return self._tag + varint(len(self._name) + len(size) + length) + self._name + size


class _Map:
    """One kind of `map<string, Value>`, told by its tag; remembers the keys it has met."""

    __slots__ = ("keys", "tag")

    def __init__(self, tag: bytes) -> None:
        self.tag = tag
        self.keys: dict[str, Heads] = {}

    def heads(self, key: str) -> Heads:
        """The heads of a key. Unstorable if it is no valid text."""
        return self.keys.get(key) or self._remember(key)

    def _remember(self, key: str) -> Heads:
        _utf8(key)
        made = Heads(self.tag, key)
        if len(self.keys) < _KEYS_KEPT:
            self.keys[key] = made
        return made


PAYLOAD = _Map(b"\x1a")  # PointStruct {3 payload}
STRUCT = _Map(b"\x0a")  # Struct {1 fields}


def encode_fields(kind: _Map, fields: Mapping[str, Any], depth: int = _PAYLOAD_DEPTH) -> bytes:
    """A `map<string, Value>`, one entry a field; `depth`: how many messages deep the values lie.

    The loop is hot: with a function for each kind of value it takes twice as long.
    """
    parts: list[bytes] = []
    append, known = parts.append, kind.keys.get
    for key, value in fields.items():
        heads = known(key) or kind.heads(key)
        type_ = type(value)
        if type_ is str:
            raw = _utf8(value)
            append(heads.texts[len(raw)])
            append(raw)
        elif type_ is int:
            number = _integer(value)
            append(heads.integer[len(number)])
            append(number)
        elif type_ is float:
            append(heads.double)
            append(_double(value))
        elif value is None:
            append(heads.null)
        elif type_ is bool:
            append(heads.true if value else heads.false)
        elif type_ is dict:
            inner = encode_fields(STRUCT, value, _deeper(depth, 3))  # Struct > entry > Value
            append(heads.structs[len(inner)])
            append(inner)
        elif type_ is list:
            inner = _encode_items(value, _deeper(depth, 2))  # ListValue > Value
            append(heads.lists[len(inner)])
            append(inner)
        else:
            raise Unstorable(f"a {type_.__name__} cannot be a payload value")
    return b"".join(parts)


def value_encoder(key: str, *, omit_null: bool) -> Callable[[PayloadValue], bytes]:
    """From one payload field's value to its entry, as `encode_fields` makes it; `omit_null`: nothing
    stands for a null."""
    heads = PAYLOAD.heads(key)
    texts, structs, lists = heads.texts, heads.structs, heads.lists
    integer, double, true, false = heads.integer, heads.double, heads.true, heads.false
    null = b"" if omit_null else heads.null

    def encode(value: Any) -> bytes:
        type_ = type(value)
        if type_ is str:
            raw = _utf8(value)
            return texts[len(raw)] + raw
        if type_ is int:
            number = _integer(value)
            return integer[len(number)] + number
        if type_ is float:
            return double + _double(value)
        if value is None:
            return null
        if type_ is bool:
            return true if value else false
        if type_ is dict:
            inner = encode_fields(STRUCT, value, _PAYLOAD_DEPTH + 3)
            return structs[len(inner)] + inner
        if type_ is list:
            inner = _encode_items(value, _PAYLOAD_DEPTH + 2)
            return lists[len(inner)] + inner
        raise Unstorable(f"a {type_.__name__} cannot be a payload value")

    return encode


def _item(length: int) -> bytes:
    return b"\x0a" + varint(length)  # ListValue {1 values}


_ITEM_TEXTS = _ByLength(_item, b"\x22")
_ITEM_STRUCTS = _ByLength(_item, b"\x32")
_ITEM_LISTS = _ByLength(_item, b"\x3a")
_ITEM_INTEGER = [_item(length + 1) + b"\x18" for length in range(11)]
_ITEM_DOUBLE = _item(9) + b"\x11"
_ITEM_NULL, _ITEM_TRUE, _ITEM_FALSE = (_item(2) + value for value in (_NULL, _TRUE, _FALSE))


def _encode_items(items: list[Any], depth: int) -> bytes:
    """The values of a ListValue; the same kinds as in `encode_fields`, without keys."""
    parts: list[bytes] = []
    for value in items:
        type_ = type(value)
        if type_ is str:
            raw = _utf8(value)
            parts += (_ITEM_TEXTS[len(raw)], raw)
        elif type_ is int:
            number = _integer(value)
            parts += (_ITEM_INTEGER[len(number)], number)
        elif type_ is float:
            parts += (_ITEM_DOUBLE, _double(value))
        elif value is None:
            parts.append(_ITEM_NULL)
        elif type_ is bool:
            parts.append(_ITEM_TRUE if value else _ITEM_FALSE)
        elif type_ is dict:
            inner = encode_fields(STRUCT, value, _deeper(depth, 3))
            parts += (_ITEM_STRUCTS[len(inner)], inner)
        elif type_ is list:
            inner = _encode_items(value, _deeper(depth, 2))
            parts += (_ITEM_LISTS[len(inner)], inner)
        else:
            raise Unstorable(f"a {type_.__name__} cannot be a payload value")
    return b"".join(parts)


def _deeper(depth: int, levels: int) -> int:
    if depth + levels > _DEEPEST:
        raise Unstorable("a value is nested too deeply for Qdrant's messages")
    return depth + levels


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Not chained: the error carries the text.
        raise Unstorable("a text has a lone surrogate, which is no valid UTF-8") from None


def _integer(number: int) -> bytes:
    if 0 <= number < _PAIR:
        return _VARINTS[number]
    if not _INT64_MIN <= number <= _INT64_MAX:
        raise Unstorable("an integer is beyond 64 bits")
    return varint(number % _UINT64)


def _double(number: float) -> bytes:
    # Qdrant rejects a whole request for one of these, so they must not get this far.
    if number - number != 0.0:
        raise Unstorable("NaN or an infinity cannot be a payload number")
    return _DOUBLE(number)
