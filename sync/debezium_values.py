"""Debezium's JSON values -> Postgres' own forms of them, by type and encoding. Pure.

What Postgres would have sent is what the rest of the pipeline reads, so a row becomes the same point on
either path. Numbers and booleans take their binary form, the others the text of their output function
(`form_of`); vectors are in `debezium_vectors.py`. Debezium documentation: PostgreSQL connector, "Data
type mappings"; what it does not tell is in tests/data/debezium.

A value that Debezium has destroyed (nested arrays, intervals as averages, `timetz` moved to UTC, money
without its currency, milliseconds of a finer column), one that it did not send (the placeholder of
unchanged TOAST), and one that does not look like its type (which may have changed since) are UNCHANGED:
the row is read again. Nothing is guessed.
"""

from __future__ import annotations

import binascii
import re
import struct
from base64 import b64decode, urlsafe_b64decode
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from enum import Enum

import orjson

from bridge.events import UNCHANGED, StreamField
from bridge.mapping import Form
from bridge.schema import PgType
from bridge.values import float8_text
from sync import debezium_times as times
from sync.debezium_modes import Encoding, Unavailable

Decode = Callable[[object], StreamField]
"""From a value that is not null."""
Text = Callable[[object], str]
"""The same to text; ValueError, TypeError or LookupError where it cannot be known."""


class Nulls(Enum):
    """What a null of a column says: NULL always; unless an UPDATE may have left the value out; only in
    a snapshot; nothing, since NaN or an infinity looks the same."""

    CERTAIN = "certain"
    UNLESS_UNCHANGED = "unless unchanged"
    IN_SNAPSHOT = "in snapshot"
    NEVER = "never"


_PACKED = {
    name: (struct.Struct(layout).pack, kind)
    for name, layout, kind in (
        ("int2", ">h", int),
        ("int4", ">i", int),
        ("int8", ">q", int),
        ("float4", ">f", float),
        ("float8", ">d", float),
    )
}
_SHORT = frozenset(
    [
        "int2",
        "int4",
        "int8",
        "float4",
        "float8",
        "bool",
        "uuid",
        "date",
        "timestamp",
        "timestamptz",
        "time",
        "oid",
        "macaddr",
        "macaddr8",
        "point",
        "inet",
        "cidr",
    ]
)
"""Never TOASTed: a null of theirs is NULL."""
_TEXTS = frozenset(
    [
        "text",
        "varchar",
        "bpchar",
        "name",
        "char",
        "citext",
        "json",
        "jsonb",
        "xml",
        "uuid",
        "inet",
        "cidr",
        "macaddr",
        "macaddr8",
        "tsvector",
        "ltree",
        "int4range",
        "int8range",
        "numrange",
        "daterange",
        "tsrange",
    ]
)
_MARKED = frozenset(["text", "varchar", "bpchar", "citext", "json", "jsonb", "bytea"])
"""Types whose unchanged values come as a placeholder, so that a null is NULL."""
_MARKED_ARRAYS = frozenset(["text", "varchar", "bpchar", "citext", "int4", "int8", "uuid"])
_OTHER_ZONE = re.compile(r"[+-](?!00(?!:))[0-9]{2}(?::[0-9]{2})*[\",\])]|[+-]00:[0-9]")
_JAVA_OBJECT = re.compile(r"\[+(?:[BCDFIJSZ]|L[\w.$]+;)@[0-9a-f]+")
_NEEDS_QUOTES = re.compile(r'[\s{},"\\]')


def form_of(type: PgType) -> Form:
    """The form that values of this type are given."""
    binary = type.kind == "base" and (type.name in _PACKED or type.name == "bool")
    return "binary" if binary else "text"


def nulls_of(type: PgType, encoding: Encoding) -> Nulls:
    """What a null says."""
    if type.kind in ("composite", "multirange") and not encoding.unknown_types:
        return Nulls.NEVER
    if type.name == "numeric" and encoding.decimal == "precise":
        return Nulls.NEVER
    if type.name == "name" and not encoding.unknown_types:
        return Nulls.IN_SNAPSHOT
    if type.kind == "enum" or (type.kind == "base" and type.name in _SHORT):
        return Nulls.CERTAIN
    if type.kind == "base" and type.name in _MARKED:
        return Nulls.CERTAIN
    element = type.element
    if type.kind == "array" and element is not None and element.kind == "base":
        return Nulls.CERTAIN if element.name in _MARKED_ARRAYS else Nulls.UNLESS_UNCHANGED
    return Nulls.UNLESS_UNCHANGED


def decoder_of(type: PgType, encoding: Encoding, unavailable: Unavailable | None) -> Decode:
    """How values of a column become fields. `unavailable` is what stands for an unchanged one; None
    where there can be none."""
    if form_of(type) == "binary":
        return _bool if type.name == "bool" else _packed(type.name)
    text_of = _array(type, encoding) if type.kind == "array" else _scalar(type, encoding)
    if text_of is None:
        return _read_again
    missing = [] if unavailable is None else _placeholders(type, encoding, unavailable)

    def decode(value: object) -> StreamField:
        if value in missing:
            return UNCHANGED
        try:
            return text_of(value).encode()
        except (ValueError, TypeError, LookupError, InvalidOperation):
            return UNCHANGED

    return decode


def _read_again(_value: object) -> StreamField:
    return UNCHANGED


def _placeholders(type: PgType, encoding: Encoding, unavailable: Unavailable) -> list[object]:
    """What an unchanged value looks like."""
    if type.kind == "array":
        return [[unavailable.text], list(unavailable.numbers), [unavailable.uuid]]
    if type.name == "bytea":
        if encoding.binary == "hex":
            return [unavailable.raw.hex()]
        return [binascii.b2a_base64(unavailable.raw, newline=False).decode()]
    return [unavailable.text]


# --- numbers, booleans ----------------------------------------------------------------------------


def _packed(name: str) -> Decode:
    pack, kind = _PACKED[name]

    def integer(value: object) -> StreamField:
        try:
            return pack(value) if type(value) is int else UNCHANGED
        except struct.error:
            return UNCHANGED

    def floating(value: object) -> StreamField:
        try:
            return pack(_float(value))
        except (ValueError, OverflowError, struct.error):
            return UNCHANGED

    return integer if kind is int else floating


_FLOATS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def _float(value: object) -> float:
    if isinstance(value, float):
        return value
    if type(value) is int:
        return float(value)
    if isinstance(value, str) and value in _FLOATS:
        return _FLOATS[value]
    raise ValueError("not a number")


def _bool(value: object) -> StreamField:
    if value is True:
        return b"\1"
    return b"\0" if value is False else UNCHANGED


def _integer_text(value: object) -> str:
    if type(value) is not int:
        raise ValueError("not a whole number")
    return str(value)


def _float_text(value: object) -> str:
    return float8_text(_float(value))


_SPECIAL = {"NAN": "NaN", "POSITIVE_INFINITY": "Infinity", "NEGATIVE_INFINITY": "-Infinity"}


def _numeric(encoding: Encoding) -> Text:
    if encoding.decimal == "double":
        return _numeric_of_double
    return _numeric_of_text if encoding.decimal == "string" else _numeric_of_bytes(encoding.scale)


def _numeric_of_double(value: object) -> str:
    number = _float(value)
    return float8_text(number) if number - number != 0 else format(Decimal(repr(number)), "f")


def _numeric_of_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")
    return _SPECIAL.get(value) or format(Decimal(value), "f")


def _numeric_of_bytes(scale: int | None) -> Text:
    def decode(value: object) -> str:
        if isinstance(value, dict):
            return _scaled(_base64(value["value"]), value["scale"])
        if scale is None:
            raise ValueError("a number without its scale")
        return _scaled(_base64(value), scale)

    return decode


def _scaled(unscaled: bytes, scale: object) -> str:
    """The unscaled value, big-endian two's complement, with its point. Postgres prints the scale's
    zeros, and none left of the point for a negative one."""
    if not unscaled or type(scale) is not int or scale < 0:
        raise ValueError("not a decimal")
    number = int.from_bytes(unscaled, "big", signed=True)
    if scale == 0:
        return str(number)
    digits = str(abs(number)).rjust(scale + 1, "0")
    return f"{'-' if number < 0 else ''}{digits[:-scale]}.{digits[-scale:]}"


# --- everything else ------------------------------------------------------------------------------


def _base64(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError("not base64")
    return b64decode(value, validate=True)


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")
    return value


def _zoned_range(value: object) -> str:
    """A tstzrange is printed in the connector's time zone; it is Postgres' text if that is UTC."""
    text = _string(value)
    if _OTHER_ZONE.search(text):
        raise ValueError("another time zone")
    return text


def _bytea(encoding: Encoding) -> Text:
    def decode(value: object) -> str:
        text = _string(value)
        if encoding.binary == "hex":
            return f"\\x{bytes.fromhex(text).hex()}"
        if encoding.binary == "base64-url-safe":
            return f"\\x{urlsafe_b64decode(text).hex()}"
        return f"\\x{_base64(text).hex()}"

    return decode


def bits(value: object, length: int) -> str:
    """bit(n): the number's bytes, the lowest first; bit(1) is a boolean."""
    if isinstance(value, bool):
        text = "1" if value else "0"
    else:
        text = format(int.from_bytes(_base64(value), "little"), f"0{length}b")
    if len(text) != length:
        raise ValueError("another number of bits")
    return text


def _point(value: object) -> str:
    if not isinstance(value, dict):
        raise ValueError("not a point")
    return f"({_float_text(value['x'])},{_float_text(value['y'])})"


_EWKB_SRID = 0x20000000


def _geometry(value: object) -> str:
    """PostGIS' hexadecimal EWKB; Debezium tells the SRID beside it, and perhaps in it."""
    if not isinstance(value, dict):
        raise ValueError("not a geometry")
    raw, srid = _base64(value["wkb"]), value.get("srid")
    order = "<" if raw[:1] == b"\1" else ">"
    (code,) = struct.unpack_from(f"{order}I", raw, 1)
    if srid and not code & _EWKB_SRID:
        raw = raw[:1] + struct.pack(f"{order}Ii", code | _EWKB_SRID, srid) + raw[5:]
    return raw.hex().upper()


def _hstore(value: object) -> str:
    pairs = orjson.loads(value) if isinstance(value, str) else value
    if not isinstance(pairs, Mapping):
        raise ValueError("not an hstore")
    return ", ".join(
        f"{_quoted(_string(key))}=>{'NULL' if item is None else _quoted(_string(item))}"
        for key, item in pairs.items()
    )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _unknown(value: object) -> str:
    """`include.unknown.datatypes=true`: the text in base64."""
    return _base64(value).decode()


def _scalar(type: PgType, encoding: Encoding) -> Text | None:
    """None: values of this type can never be taken from a message."""
    if type.kind == "enum":
        return _string
    if type.kind in ("composite", "multirange"):
        return _unknown if encoding.unknown_types else None
    if type.name in ("timestamp", "time") and not encoding.exact:
        return None
    if type.name == "interval":
        return times.interval if encoding.interval == "string" else None
    if type.name == "bit":
        length = max(type.modifier, 1)
        return lambda value: bits(value, length)
    return {
        **dict.fromkeys(_TEXTS, _string),
        **dict.fromkeys(("int2", "int4", "int8", "oid"), _integer_text),
        **dict.fromkeys(("float4", "float8"), _float_text),
        "bool": lambda value: "t" if _bool(value) == b"\1" else _require_false(value),
        "numeric": _numeric(encoding),
        "tstzrange": _zoned_range,
        "bytea": _bytea(encoding),
        "timestamptz": times.timestamptz,
        "timestamp": lambda value: times.timestamp(value, encoding),
        "date": lambda value: times.day(value, encoding),
        "time": lambda value: times.time(value, encoding),
        "point": _point,
        "geometry": _geometry,
        "geography": _geometry,
        "hstore": _hstore,
    }.get(type.name)


def _require_false(value: object) -> str:
    if value is not False:
        raise ValueError("not a boolean")
    return "f"


# --- arrays ---------------------------------------------------------------------------------------


def _array(type: PgType, encoding: Encoding) -> Text | None:
    """A list of one dimension as array_out prints it.

    Nested arrays arrive as nulls, or as the text of Java objects; so a list of nothing but nulls may
    have been one.
    """
    element = type.element
    text_of = None if element is None else _scalar(element, encoding)
    if element is None or text_of is None:
        return None

    def decode(value: object) -> str:
        if not isinstance(value, list):
            raise ValueError("not a list")
        if value and all(item is None for item in value):
            raise ValueError("nulls, or a nested array")
        return "{" + ",".join(_item(item, text_of) for item in value) + "}"

    return decode


def _item(value: object, text_of: Text) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        raise ValueError("a nested array")
    text = text_of(value)
    if _JAVA_OBJECT.fullmatch(text):
        raise ValueError("what is left of a nested array")
    if not text or text.upper() == "NULL" or _NEEDS_QUOTES.search(text):
        return _quoted(text)
    return text
